package api

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/alert"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
	"github.com/swanherd/swanherd/server/webhook"
)

// The methods of AlertService about sinks.

// shownSink is a stored sink as the API shows it: without its secret, which is not in
// the stored sink either.
func shownSink(row model.Row[*storev1.WebhookSink]) *swanherdv1.WebhookSink {
	return shown(model.Row[*swanherdv1.WebhookSink]{Name: row.Name, Value: row.Value.GetSink(), Revision: row.Revision})
}

// sinkMistakes says what is wrong with a sink besides what its proto says.
func (s *Alerts) sinkMistakes(sink *swanherdv1.WebhookSink, needsSecret bool) map[string]string {
	out := map[string]string{}
	if err := webhook.CheckURL(sink.GetUrl(), s.Courier.Sender.AllowLocal); err != nil {
		out["url"] = err.Error()
	}
	if err := webhook.CheckAuthorities(sink.GetCaCertificates()); err != nil {
		out["ca_certificates"] = err.Error()
	}
	if sink.GetSecret() != "" || needsSecret {
		if _, err := webhook.ParseSecret(sink.GetSecret()); err != nil {
			out["secret"] = err.Error()
		}
	}
	if len(sink.GetNetworks()) > 0 && !strings.HasPrefix(sink.GetName(), alert.AllNetworks+"/") {
		out["networks"] = "is for sinks of networks/-; a sink of a network gets that network's alerts"
	}
	return out
}

// CreateWebhookSink implements AlertService.
func (s *Alerts) CreateWebhookSink(ctx context.Context, req *swanherdv1.CreateWebhookSinkRequest) (*swanherdv1.WebhookSink, error) {
	if err := alertParent(ctx, s.Store.Snapshot(), req.GetParent()); err != nil {
		return nil, err
	}
	if req.GetWebhookSinkId() == "" {
		return nil, access.Invalid("webhook_sink_id", "is needed: the last segment of the sink's name")
	}
	sink := proto.CloneOf(req.GetWebhookSink())
	clearUnwritable(sink)
	sink.Name = req.GetParent() + "/webhookSinks/" + req.GetWebhookSinkId()
	out, err := committed(ctx, s.Store, req, func() (*swanherdv1.WebhookSink, *store.Txn, error) { return s.newSink(ctx, proto.CloneOf(sink)) })
	return out, access.StoreError(err)
}

// newSink is a sink that is to be made, with the transaction that does so.
func (s *Alerts) newSink(ctx context.Context, sink *swanherdv1.WebhookSink) (*swanherdv1.WebhookSink, *store.Txn, error) {
	if err := s.check("webhook_sink", sink, s.sinkMistakes(sink, true)); err != nil {
		return nil, nil, err
	}
	snap := s.Store.Snapshot()
	if _, ok := snap.WebhookSinks.Get(sink.GetName()); ok {
		return nil, nil, taken(scopeOf(ctx, snap), sink.GetName())
	}
	stored, err := s.sealed(sink, nil)
	if err != nil {
		return nil, nil, err
	}
	sink.CreateTime = timestamppb.New(time.Now())
	sink.UpdateTime = sink.GetCreateTime()
	t := s.Store.Txn()
	s.inParent(t, sink.GetName())
	s.Store.WebhookSinks.CreateIn(t, sink.GetName(), stored)
	s.audit(ctx, t, sink.GetName(), "webhookSink.create", "")
	return proto.CloneOf(sink), t, nil
}

// sealed takes the secret out of a sink and returns what is stored of it; without a new
// secret it keeps the one before.
func (s *Alerts) sealed(sink *swanherdv1.WebhookSink, before *storev1.SealedSecret) (*storev1.WebhookSink, error) {
	out := &storev1.WebhookSink{Sink: sink, Secret: before}
	if sink.GetSecret() == "" {
		return out, nil
	}
	octets, err := webhook.ParseSecret(sink.GetSecret())
	if err != nil {
		return nil, access.Invalid("webhook_sink.secret", err.Error())
	}
	defer clear(octets)
	record, err := s.Store.WebhookSinks.Key(sink.GetName())
	if err != nil {
		return nil, err
	}
	sink.Secret = ""
	out.Secret = s.Sealer.Seal(record, octets)
	return out, nil
}

func (s *Alerts) sinkRow(name string) (model.Row[*storev1.WebhookSink], error) {
	row, ok := s.Store.Snapshot().WebhookSinks.Get(name)
	if !ok {
		return row, notThere(name)
	}
	return row, nil
}

// GetWebhookSink implements AlertService.
func (s *Alerts) GetWebhookSink(ctx context.Context, req *swanherdv1.GetWebhookSinkRequest) (*swanherdv1.WebhookSink, error) {
	if err := checkAlertName(ctx, "name", req.GetName(), "webhookSinks", "webhook_sink"); err != nil {
		return nil, err
	}
	row, err := s.sinkRow(req.GetName())
	if err != nil {
		return nil, err
	}
	return shownSink(row), nil
}

// ListWebhookSinks implements AlertService.
func (s *Alerts) ListWebhookSinks(ctx context.Context, req *swanherdv1.ListWebhookSinksRequest) (*swanherdv1.ListWebhookSinksResponse, error) {
	out, next, err := listRows(ctx, s.Store, req, func(snap *store.Snapshot) model.Table[*storev1.WebhookSink] { return snap.WebhookSinks },
		func(_ *store.Snapshot, row model.Row[*storev1.WebhookSink]) *swanherdv1.WebhookSink {
			return shownSink(row)
		})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListWebhookSinksResponse{WebhookSinks: out, NextPageToken: next}, nil
}

// UpdateWebhookSink implements AlertService.
func (s *Alerts) UpdateWebhookSink(ctx context.Context, req *swanherdv1.UpdateWebhookSinkRequest) (*swanherdv1.WebhookSink, error) {
	want := req.GetWebhookSink()
	if err := checkAlertName(ctx, "webhook_sink.name", want.GetName(), "webhookSinks", "webhook_sink"); err != nil {
		return nil, err
	}
	out, err := committed(ctx, s.Store, req, func() (*swanherdv1.WebhookSink, *store.Txn, error) { return s.changedSink(ctx, req) })
	return out, access.StoreError(err)
}

// changedSink is a sink as it is to be, with the transaction that makes it so.
func (s *Alerts) changedSink(ctx context.Context, req *swanherdv1.UpdateWebhookSinkRequest) (*swanherdv1.WebhookSink, *store.Txn, error) {
	want := req.GetWebhookSink()
	row, ok := s.Store.Snapshot().WebhookSinks.Get(want.GetName())
	if !ok && req.GetAllowMissing() {
		sink := proto.CloneOf(want)
		clearUnwritable(sink)
		return s.newSink(ctx, sink)
	}
	if !ok {
		return nil, nil, notThere(want.GetName())
	}
	old := model.Row[*swanherdv1.WebhookSink]{Name: row.Name, Value: row.Value.GetSink(), Revision: row.Revision}
	next, err := changed(old, want, want.GetEtag(), req.GetUpdateMask())
	if err != nil {
		return nil, nil, err
	}
	if err := s.check("webhook_sink", next, s.sinkMistakes(next, false)); err != nil {
		return nil, nil, err
	}
	fields := changedFields(old.Value, next)
	stored, err := s.sealed(next, row.Value.GetSecret())
	if err != nil {
		return nil, nil, err
	}
	next.UpdateTime = timestamppb.New(time.Now())
	t := s.Store.Txn()
	s.Store.WebhookSinks.UpdateIn(t, row.Name, stored, row.Revision)
	s.audit(ctx, t, row.Name, "webhookSink.update", fields)
	return proto.CloneOf(next), t, nil
}

// DeleteWebhookSink implements AlertService.
func (s *Alerts) DeleteWebhookSink(ctx context.Context, req *swanherdv1.DeleteWebhookSinkRequest) (*emptypb.Empty, error) {
	if err := checkAlertName(ctx, "name", req.GetName(), "webhookSinks", "webhook_sink"); err != nil {
		return nil, err
	}
	return deleteRow(ctx, s, s.Store.WebhookSinks, func(snap *store.Snapshot) model.Table[*storev1.WebhookSink] { return snap.WebhookSinks }, req, "webhookSink.delete")
}

// TestWebhookSink implements AlertService.
func (s *Alerts) TestWebhookSink(ctx context.Context, req *swanherdv1.TestWebhookSinkRequest) (*swanherdv1.TestWebhookSinkResponse, error) {
	if err := checkAlertName(ctx, "name", req.GetName(), "webhookSinks", "webhook_sink"); err != nil {
		return nil, err
	}
	row, err := s.sinkRow(req.GetName())
	if err != nil {
		return nil, err
	}
	code, err := s.Courier.Test(ctx, row.Value, "test-"+newUID(), time.Now())
	out := &swanherdv1.TestWebhookSinkResponse{Delivered: err == nil, StatusCode: int32(code)}
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}
