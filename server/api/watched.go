package api

import (
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// watchedKind is a kind of resource that Watch shows.
type watchedKind interface {
	// collection is its word in WatchRequest.kinds.
	collection() string
	// method is that which lists the kind, or gets what there is one of: who may not call it
	// is not shown the kind.
	method() string
	// changes are the messages of a step, in the order of names.
	changes(*watchStep) iter.Seq[*swanherdv1.WatchResponse]
}

// watchedKinds are all that Watch shows, in the order in which it does: what others name
// comes before them. Not among them is what is secret, and what is made of several rows of
// the store, or of the time, so that no row tells of its change.
var watchedKinds = []watchedKind{
	ofTopology(networks, swanherdv1.TopologyService_ListNetworks_FullMethodName),
	ofTopology(profiles, swanherdv1.TopologyService_ListProfiles_FullMethodName),
	ofTopology(segments, swanherdv1.TopologyService_ListSegments_FullMethodName),
	ofTopology(sites, swanherdv1.TopologyService_ListSites_FullMethodName),
	ofTopology(meshes, swanherdv1.TopologyService_ListMeshes_FullMethodName),
	ofTopology(gateways, swanherdv1.TopologyService_ListGateways_FullMethodName),
	ofTopology(assertions, swanherdv1.TopologyService_ListAssertions_FullMethodName),
	ofTopology(edges, swanherdv1.TopologyService_ListEdges_FullMethodName),
	watchedRows[*swanherdv1.ChangeSet, *swanherdv1.ChangeSet]{
		word: "changeSets", list: swanherdv1.RolloutService_ListChangeSets_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*swanherdv1.ChangeSet] { return s.ChangeSets },
		show: func(s *watchStep, row model.Row[*swanherdv1.ChangeSet]) *swanherdv1.ChangeSet {
			return listedChangeSet(s.is, row)
		},
	},
	watchedRows[*storev1.Rollout, *swanherdv1.Rollout]{
		word: "rollouts", list: swanherdv1.RolloutService_ListRollouts_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*storev1.Rollout] { return s.Rollouts },
		show: func(s *watchStep, row model.Row[*storev1.Rollout]) *swanherdv1.Rollout {
			return shownRollout(s.is, row)
		},
	},
	watchedRows[*swanherdv1.Job, *swanherdv1.Job]{
		word: "jobs", list: swanherdv1.JobService_ListJobs_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*swanherdv1.Job] { return s.Jobs },
		show: func(_ *watchStep, row model.Row[*swanherdv1.Job]) *swanherdv1.Job { return shown(row) },
	},
	watchedRows[*swanherdv1.Device, *swanherdv1.Device]{
		word: "devices", list: swanherdv1.DeviceService_ListDevices_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*swanherdv1.Device] { return s.Devices },
		show: func(_ *watchStep, row model.Row[*swanherdv1.Device]) *swanherdv1.Device { return shown(row) },
	},
	watchedRows[*storev1.EnrollmentRequest, *swanherdv1.EnrollmentRequest]{
		word: "enrollmentRequests", list: swanherdv1.DeviceService_ListEnrollmentRequests_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*storev1.EnrollmentRequest] { return s.EnrollmentRequests },
		show: func(_ *watchStep, row model.Row[*storev1.EnrollmentRequest]) *swanherdv1.EnrollmentRequest {
			return row.Value.GetRequest()
		},
	},
	watchedRows[*storev1.CertificateAuthority, *swanherdv1.CertificateAuthority]{
		word: "certificateAuthorities", list: swanherdv1.CertificateService_GetCertificateAuthority_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*storev1.CertificateAuthority] { return s.Authorities },
		name: func(row string) string { return model.AuthorityOf(row).AuthorityResource() },
		show: func(s *watchStep, row model.Row[*storev1.CertificateAuthority]) *swanherdv1.CertificateAuthority {
			a, err := authority(s.now, model.AuthorityOf(row.Name), row)
			if err != nil { // its certificate in the store cannot be read: Get says so
				return &swanherdv1.CertificateAuthority{Name: model.AuthorityOf(row.Name).AuthorityResource()}
			}
			return a
		},
	},
	watchedRows[*swanherdv1.AlertRule, *swanherdv1.AlertRule]{
		word: "alertRules", list: swanherdv1.AlertService_ListAlertRules_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*swanherdv1.AlertRule] { return s.AlertRules },
		show: func(_ *watchStep, row model.Row[*swanherdv1.AlertRule]) *swanherdv1.AlertRule { return shown(row) },
	},
	watchedRows[*swanherdv1.Alert, *swanherdv1.Alert]{
		word: "alerts", list: swanherdv1.AlertService_ListAlerts_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*swanherdv1.Alert] { return s.Alerts },
		show: func(_ *watchStep, row model.Row[*swanherdv1.Alert]) *swanherdv1.Alert { return row.Value },
	},
	watchedRows[*storev1.WebhookSink, *swanherdv1.WebhookSink]{
		word: "webhookSinks", list: swanherdv1.AlertService_ListWebhookSinks_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*storev1.WebhookSink] { return s.WebhookSinks },
		show: func(_ *watchStep, row model.Row[*storev1.WebhookSink]) *swanherdv1.WebhookSink { return shownSink(row) },
	},
	watchedRows[*swanherdv1.RoleBinding, *swanherdv1.RoleBinding]{
		word: "roleBindings", list: swanherdv1.RoleBindingService_ListRoleBindings_FullMethodName,
		rows: func(s *store.Snapshot) model.Table[*swanherdv1.RoleBinding] { return s.RoleBindings },
		show: func(_ *watchStep, row model.Row[*swanherdv1.RoleBinding]) *swanherdv1.RoleBinding { return row.Value },
	},
}

// ofTopology is a kind of the topology as Watch shows it.
func ofTopology[T resource](k kind[T], list string) watchedKind {
	return watchedRows[T, T]{
		word: k.collection, list: list,
		rows: func(s *store.Snapshot) model.Table[T] { return *k.rows(&s.Topology) },
		show: func(s *watchStep, row model.Row[T]) T { return s.topology.shown(row.Name, shown(row)).(T) },
	}
}

// watchStep is what a caller saw of a parent, and what it is to see.
type watchStep struct {
	topology  *Topology
	parent    string
	seen, now *store.Snapshot
	was, is   access.Scope
}

// watchedRows are the rows of one table, T, each shown as one resource, R.
type watchedRows[T proto.Message, R named] struct {
	word string
	list string
	rows func(*store.Snapshot) model.Table[T]
	// name is that of the resource of a row; nil: the row's.
	name func(row string) string
	show func(*watchStep, model.Row[T]) R
}

func (k watchedRows[T, R]) collection() string { return k.word }
func (k watchedRows[T, R]) method() string     { return k.list }

func (k watchedRows[T, R]) changes(s *watchStep) iter.Seq[*swanherdv1.WatchResponse] {
	return func(yield func(*swanherdv1.WatchResponse) bool) {
		before, rows := k.rows(s.seen), k.rows(s.now)
		for c := range model.Diff(before, rows) {
			if m := k.change(s, c.Old, c.New); m != nil && !yield(m) {
				return
			}
		}
		if !s.is.Moved(s.was) {
			return
		}
		for row := range rows.All() { // what stayed as it is, and came into scope or left it
			old, ok := before.Get(row.Name)
			if !ok || old.Revision != row.Revision || k.seen(s.was, old) == k.seen(s.is, row) {
				continue
			}
			if m := k.change(s, &old, &row); m != nil && !yield(m) {
				return
			}
		}
	}
}

// seen says whether a row is in scope.
func (k watchedRows[T, R]) seen(scope access.Scope, row model.Row[T]) bool {
	row.Name = k.resource(row.Name)
	return scope.Sees(subject(row))
}

func (k watchedRows[T, R]) resource(row string) string {
	if k.name == nil {
		return row
	}
	return k.name(row)
}

// change tells of one row; nil: the caller sees nothing of it.
func (k watchedRows[T, R]) change(s *watchStep, old, current *model.Row[T]) *swanherdv1.WatchResponse {
	row := current
	if row == nil {
		row = old
	}
	name := k.resource(row.Name)
	if s.parent != fleet.AllNetworks && networkOf(name).String() != s.parent {
		return nil
	}
	r := &swanherdv1.WatchResponse{Kind: swanherdv1.WatchResponse_KIND_UPSERTED}
	switch {
	case current != nil && k.seen(s.is, *current):
		setResource(r, k.show(s, *current))
	case old != nil && k.seen(s.was, *old):
		var none R
		gone := none.ProtoReflect().New().Interface()
		setString(gone, "name", name)
		r.Kind = swanherdv1.WatchResponse_KIND_REMOVED
		setResource(r, gone)
	default:
		return nil
	}
	return r
}

// setResource sets that field of the oneof that is of m's type.
func setResource(r *swanherdv1.WatchResponse, m proto.Message) {
	message := r.ProtoReflect()
	fields := message.Descriptor().Oneofs().ByName("resource").Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() == m.ProtoReflect().Descriptor() {
			message.Set(f, protoreflect.ValueOfMessage(m.ProtoReflect()))
		}
	}
}

// followed is a kind in one stream, with the caller as the method that lists the kind gets it.
type followed struct {
	watchedKind
	who access.Principal
}

// followedKinds are the kinds that a request asks for: of all, those that the caller may list.
func followedKinds(who access.Principal, req *swanherdv1.WatchRequest) ([]followed, error) {
	var out []followed
	for _, k := range watchedKinds {
		asked := slices.Contains(req.GetKinds(), k.collection())
		if len(req.GetKinds()) > 0 && !asked {
			continue
		}
		p, err := who.For(k.method())
		if err == nil {
			err = p.In(req.GetParent())
		}
		switch {
		case err == nil:
			out = append(out, followed{k, p})
		case asked:
			return nil, err
		}
	}
	return out, nil
}
