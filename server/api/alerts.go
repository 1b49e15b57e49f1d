package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/alert"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
	"github.com/swanherd/swanherd/server/webhook"
)

// AlertsConfig is what the service needs.
type AlertsConfig struct {
	Store  *store.Store
	Sealer *store.Sealer
	// Courier sends tests.
	Courier *webhook.Courier
	// Pending are alerts that do not fire yet, as far as this replica knows.
	Pending func() []*swanherdv1.Alert
}

// Alerts implements AlertService.
type Alerts struct {
	swanherdv1.UnimplementedAlertServiceServer

	AlertsConfig
	valid protovalidate.Validator
}

// NewAlerts returns the service.
func NewAlerts(cfg AlertsConfig) (*Alerts, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make a validator: %w", err)
	}
	return &Alerts{AlertsConfig: cfg, valid: v}, nil
}

// alertParent is the parent of a rule or sink that is to be made: a network that is
// there, or the whole fleet for who sees all of it.
func alertParent(ctx context.Context, snap *store.Snapshot, parent string) error {
	if parent == alert.AllNetworks {
		return mayActEverywhere(ctx, parent)
	}
	return checkParent(&snap.Topology, parent)
}

// mayActEverywhere refuses what is of no network to those who are bound to some. Of
// others the guard has refused it.
func mayActEverywhere(ctx context.Context, name string) error {
	p := access.PrincipalFrom(ctx)
	if networkOf(name).String() == alert.AllNetworks && !p.Global() {
		return status.Errorf(codes.PermissionDenied, "%s may not act in %s", p.Actor, alert.AllNetworks)
	}
	return nil
}

// checkAlertName refuses a name that is none of the collection, or not the caller's.
func checkAlertName(ctx context.Context, field, name, collection, word string) error {
	if err := model.CheckFleetName(name, collection, word); err != nil {
		return access.Invalid(field, err.Error())
	}
	return mayActEverywhere(ctx, name)
}

// check says everything that is wrong with a resource of the request, called word there.
func (s *Alerts) check(word string, m proto.Message, more map[string]string) error {
	wrong := mistakes(s.valid, word, m)
	if len(wrong) == 0 {
		for field, message := range more {
			wrong = append(wrong, access.Violation{Field: word + "." + field, Message: message})
		}
		slices.SortFunc(wrong, func(a, b access.Violation) int { return strings.Compare(a.Field, b.Field) })
	}
	if len(wrong) > 0 {
		return access.InvalidAll(wrong)
	}
	return nil
}

// audit adds to t that somebody did something to a rule or a sink.
func (s *Alerts) audit(ctx context.Context, t *store.Txn, name, action, message string) {
	network, err := model.NetworkOf(name)
	if err != nil {
		network = store.NoNetwork
	}
	s.Store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, name, action, message))
}

// inParent makes t depend on the network that the resource is in.
func (s *Alerts) inParent(t *store.Txn, name string) {
	if network, err := model.NetworkOf(name); err == nil {
		s.Store.Networks.RequireIn(t, network.String(), store.AnyRevision)
	}
}

// CreateAlertRule implements AlertService.
func (s *Alerts) CreateAlertRule(ctx context.Context, req *swanherdv1.CreateAlertRuleRequest) (*swanherdv1.AlertRule, error) {
	if err := alertParent(ctx, s.Store.Snapshot(), req.GetParent()); err != nil {
		return nil, err
	}
	if req.GetAlertRuleId() == "" {
		return nil, access.Invalid("alert_rule_id", "is needed: the last segment of the rule's name")
	}
	rule := proto.CloneOf(req.GetAlertRule())
	clearUnwritable(rule)
	rule.Name = req.GetParent() + "/alertRules/" + req.GetAlertRuleId()
	rule, err := committed(ctx, s.Store, req, func() (*swanherdv1.AlertRule, *store.Txn, error) { return s.newRule(ctx, rule) })
	return rule, access.StoreError(err)
}

// newRule is a rule that is to be made, with the transaction that does so.
func (s *Alerts) newRule(ctx context.Context, rule *swanherdv1.AlertRule) (*swanherdv1.AlertRule, *store.Txn, error) {
	if err := s.check("alert_rule", rule, alert.Mistakes(rule)); err != nil {
		return nil, nil, err
	}
	snap := s.Store.Snapshot()
	if _, ok := snap.AlertRules.Get(rule.GetName()); ok {
		return nil, nil, taken(scopeOf(ctx, snap), rule.GetName())
	}
	rule.Etag = ""
	rule.CreateTime = timestamppb.New(time.Now())
	rule.UpdateTime = rule.GetCreateTime()
	t := s.Store.Txn()
	s.inParent(t, rule.GetName())
	s.Store.AlertRules.CreateIn(t, rule.GetName(), rule)
	s.audit(ctx, t, rule.GetName(), "alertRule.create", rule.GetCondition().String())
	return rule, t, nil
}

// GetAlertRule implements AlertService.
func (s *Alerts) GetAlertRule(ctx context.Context, req *swanherdv1.GetAlertRuleRequest) (*swanherdv1.AlertRule, error) {
	if err := checkAlertName(ctx, "name", req.GetName(), "alertRules", "alert_rule"); err != nil {
		return nil, err
	}
	row, ok := s.Store.Snapshot().AlertRules.Get(req.GetName())
	if !ok {
		return nil, notThere(req.GetName())
	}
	return shown(row), nil
}

func notThere(name string) error { return status.Errorf(codes.NotFound, "%s does not exist", name) }

// ListAlertRules implements AlertService.
func (s *Alerts) ListAlertRules(ctx context.Context, req *swanherdv1.ListAlertRulesRequest) (*swanherdv1.ListAlertRulesResponse, error) {
	out, next, err := listRows(ctx, s.Store, req, func(snap *store.Snapshot) model.Table[*swanherdv1.AlertRule] { return snap.AlertRules },
		func(_ *store.Snapshot, row model.Row[*swanherdv1.AlertRule]) *swanherdv1.AlertRule { return shown(row) })
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListAlertRulesResponse{AlertRules: out, NextPageToken: next}, nil
}

// UpdateAlertRule implements AlertService.
func (s *Alerts) UpdateAlertRule(ctx context.Context, req *swanherdv1.UpdateAlertRuleRequest) (*swanherdv1.AlertRule, error) {
	want := req.GetAlertRule()
	if err := checkAlertName(ctx, "alert_rule.name", want.GetName(), "alertRules", "alert_rule"); err != nil {
		return nil, err
	}
	rule, err := committed(ctx, s.Store, req, func() (*swanherdv1.AlertRule, *store.Txn, error) { return s.changedRule(ctx, req) })
	return rule, access.StoreError(err)
}

// changedRule is a rule as it is to be, with the transaction that makes it so.
func (s *Alerts) changedRule(ctx context.Context, req *swanherdv1.UpdateAlertRuleRequest) (*swanherdv1.AlertRule, *store.Txn, error) {
	want := req.GetAlertRule()
	row, ok := s.Store.Snapshot().AlertRules.Get(want.GetName())
	if !ok && req.GetAllowMissing() {
		rule := proto.CloneOf(want)
		clearUnwritable(rule)
		return s.newRule(ctx, rule)
	}
	if !ok {
		return nil, nil, notThere(want.GetName())
	}
	next, err := changed(row, want, want.GetEtag(), req.GetUpdateMask())
	if err != nil {
		return nil, nil, err
	}
	if err := s.check("alert_rule", next, alert.Mistakes(next)); err != nil {
		return nil, nil, err
	}
	next.UpdateTime = timestamppb.New(time.Now())
	t := s.Store.Txn()
	s.Store.AlertRules.UpdateIn(t, row.Name, next, row.Revision)
	s.audit(ctx, t, row.Name, "alertRule.update", changedFields(row.Value, next))
	return next, t, nil
}

// changed is a stored resource with what the mask names of want, at the etag.
func changed[T proto.Message](row model.Row[T], want T, etag string, mask *fieldmaskpb.FieldMask) (T, error) {
	if err := checkETag(row.Name, etag, row.Revision); err != nil {
		var none T
		return none, err
	}
	return masked(row.Value, want, mask)
}

// DeleteAlertRule implements AlertService.
func (s *Alerts) DeleteAlertRule(ctx context.Context, req *swanherdv1.DeleteAlertRuleRequest) (*emptypb.Empty, error) {
	if err := checkAlertName(ctx, "name", req.GetName(), "alertRules", "alert_rule"); err != nil {
		return nil, err
	}
	return deleteRow(ctx, s, s.Store.AlertRules, func(snap *store.Snapshot) model.Table[*swanherdv1.AlertRule] { return snap.AlertRules }, req, "alertRule.delete")
}

// deleteAlertRequest is what the requests that delete have in common.
type deleteAlertRequest interface {
	change
	GetName() string
	GetEtag() string
	GetAllowMissing() bool
}

func deleteRow[T proto.Message](ctx context.Context, s *Alerts, c *store.Collection[T], rows func(*store.Snapshot) model.Table[T], req deleteAlertRequest, action string) (*emptypb.Empty, error) {
	out, err := committed(ctx, s.Store, req, func() (*emptypb.Empty, *store.Txn, error) {
		row, ok := rows(s.Store.Snapshot()).Get(req.GetName())
		if !ok && req.GetAllowMissing() {
			return &emptypb.Empty{}, s.Store.Txn(), nil
		}
		if !ok {
			return nil, nil, notThere(req.GetName())
		}
		if err := checkETag(row.Name, req.GetEtag(), row.Revision); err != nil {
			return nil, nil, err
		}
		t := s.Store.Txn()
		c.DeleteIn(t, row.Name, row.Revision)
		s.audit(ctx, t, row.Name, action, "")
		return &emptypb.Empty{}, t, nil
	})
	return out, access.StoreError(err)
}

// GetAlert implements AlertService.
func (s *Alerts) GetAlert(ctx context.Context, req *swanherdv1.GetAlertRequest) (*swanherdv1.Alert, error) {
	if err := checkAlertName(ctx, "name", req.GetName(), "alerts", "alert"); err != nil {
		return nil, err
	}
	row, ok := s.alerts(s.Store.Snapshot()).Get(req.GetName())
	if !ok {
		return nil, notThere(req.GetName())
	}
	return row.Value, nil
}

// alerts are those of a snapshot, and those that are pending.
func (s *Alerts) alerts(snap *store.Snapshot) model.Table[*swanherdv1.Alert] {
	var pending []model.Row[*swanherdv1.Alert]
	for _, a := range s.Pending() {
		pending = append(pending, model.Row[*swanherdv1.Alert]{Name: a.GetName(), Value: a})
	}
	return snap.Alerts.Apply(pending, nil)
}

// ListAlerts implements AlertService.
func (s *Alerts) ListAlerts(ctx context.Context, req *swanherdv1.ListAlertsRequest) (*swanherdv1.ListAlertsResponse, error) {
	out, next, err := listRows(ctx, s.Store, req, s.alerts,
		func(_ *store.Snapshot, row model.Row[*swanherdv1.Alert]) *swanherdv1.Alert { return row.Value })
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListAlertsResponse{Alerts: out, NextPageToken: next}, nil
}

// dropAlertsOf removes the alerts, rules and sinks of a network that goes.
func (e *edit) dropAlertsOf(n model.NetworkName) {
	s := e.svc.store
	s.AlertRules.DropNetworkIn(e.txn, n)
	s.Alerts.DropNetworkIn(e.txn, n)
	s.WebhookSinks.DropNetworkIn(e.txn, n)
	s.WebhookDeliveries.DropNetworkIn(e.txn, n)
}

// changedFields names the fields in which a resource differs, for the audit log.
func changedFields(a, b proto.Message) string { return strings.Join(model.ChangedFields(a, b), ", ") }
