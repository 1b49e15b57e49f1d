package pki

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// world is a network with an authority and edges in a real store.
type world struct {
	*testing.T
	store   *store.Store
	keeper  *Keeper
	rotator *Rotator
	actions []string
}

func newWorld(t *testing.T, edges ...string) *world {
	s, sealer := openStore(t)
	w := &world{T: t, store: s, keeper: NewKeeper(s, sealer)}
	w.rotator = &Rotator{Keeper: w.keeper, Failed: func(err error) { t.Error(err) }, Audit: func(_ model.NetworkName, action, message string) *swanherdv1.Event {
		w.actions = append(w.actions, action+": "+message)
		return &swanherdv1.Event{Action: action}
	}}
	txn := s.Txn()
	s.Networks.CreateIn(txn, demo.String(), &swanherdv1.Network{Name: demo.String()})
	if err := w.keeper.CreateNetworkIn(txn, demo, now); err != nil {
		t.Fatal(err)
	}
	for _, e := range edges {
		name := model.EdgeName{Network: demo.Network, Edge: e}.String()
		s.Edges.CreateIn(txn, name, &swanherdv1.Edge{Name: name})
	}
	w.commit(txn)
	for _, e := range edges {
		w.issue(e)
	}
	return w
}

func (w *world) commit(t *store.Txn) {
	w.Helper()
	revision, err := t.Commit(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.store.WaitRevision(w.Context(), revision); err != nil {
		w.Fatal(err)
	}
}

func (w *world) authority() model.Row[*storev1.CertificateAuthority] {
	w.Helper()
	row, err := w.store.Authorities.Get(w.Context(), demo.AuthorityName())
	if err != nil {
		w.Fatal(err)
	}
	return row
}

func (w *world) phase() swanherdv1.CertificateAuthority_Phase {
	return w.authority().Value.GetRotation().GetPhase()
}

// issue gives an edge certificates of the authority that issues.
func (w *world) issue(edge string) *Certificate {
	w.Helper()
	a, err := w.keeper.Network(w.Context(), demo)
	if err != nil {
		w.Fatal(err)
	}
	name := model.EdgeName{Network: demo.Network, Edge: edge}
	control, err := a.IssueControl(parsed(w, request(w, ed25519Key(w))), name, now)
	if err != nil {
		w.Fatal(err)
	}
	ike, err := a.IssueIKE(parsed(w, request(w, ed25519Key(w))), name, now)
	if err != nil {
		w.Fatal(err)
	}
	identity := &storev1.EdgeIdentity{Edge: name.String()}
	if row, err := w.store.EdgeIdentities.Get(w.Context(), name.String()); err == nil {
		identity = row.Value
	}
	Remember(identity, control, ike, now)
	t := w.store.Txn()
	w.keeper.RequireIssuerIn(t, a)
	w.store.EdgeIdentities.PutIn(t, name.String(), identity)
	w.commit(t)
	return control
}

// says notes what an edge said: the revision that it keeps, and its certificate.
func (w *world) says(edge string, state swanherdv1.IntentState, revision int64, serial string) {
	w.Helper()
	name := model.EdgeName{Network: demo.Network, Edge: edge}.String()
	t := w.store.Txn()
	w.store.EdgeStatuses.PutIn(t, name, &storev1.EdgeStatus{
		Edge: name, CertificateSerial: serial,
		Status: &swanherdv1.EdgeStatus{IntentState: state, AppliedRevision: revision, Connected: true},
	})
	w.commit(t)
}

func (w *world) step() {
	w.Helper()
	if err := w.rotator.Step(w.Context(), now); err != nil {
		w.Fatal(err)
	}
	t := w.store.Txn() // the step is in the snapshot when this is
	w.store.LoginLinks.PutIn(t, "loginLinks/tick", &storev1.LoginLink{})
	w.commit(t)
}

const confirmed = swanherdv1.IntentState_INTENT_STATE_CONFIRMED

// No phase ends before every edge has said that it is through with it, and only the
// edge's own word counts.
func TestRotationWaitsForEveryEdge(t *testing.T) {
	w := newWorld(t, "berlin", "oslo")
	before := w.authority()
	txn := w.store.Txn()
	if _, err := w.keeper.RotateIn(txn, before, demo, RotateOptions{Edges: 2, Actor: "token:x"}, now); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	if _, err := w.keeper.RotateIn(w.store.Txn(), w.authority(), demo, RotateOptions{Edges: 2, Actor: "token:x"}, now); !errors.Is(err, ErrRotation) {
		t.Errorf("a second replacement at once: %v", err)
	}
	revision := w.authority().Revision
	w.says("berlin", confirmed, revision, "")
	for what, say := range map[string]func(){
		"oslo said nothing":              func() {},
		"oslo applied, but may go back":  func() { w.says("oslo", swanherdv1.IntentState_INTENT_STATE_APPLIED, revision, "") },
		"oslo refused":                   func() { w.says("oslo", swanherdv1.IntentState_INTENT_STATE_REJECTED, revision, "") },
		"oslo keeps what was before":     func() { w.says("oslo", confirmed, revision-1, "") },
		"oslo took the change back":      func() { w.says("oslo", swanherdv1.IntentState_INTENT_STATE_REVERTED, revision, "") },
		"oslo is of another, later time": func() { w.says("oslo", swanherdv1.IntentState_INTENT_STATE_PENDING, revision+100, "") },
	} {
		say()
		w.step()
		if w.phase() != swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING {
			t.Fatalf("%s, and the new authority issues", what)
		}
	}
	// Until then certificates are of the old one, and both verify.
	old := w.issue("berlin")
	var verifier Verifier
	if _, err := verifier.Control(w.store.Snapshot(), old.Leaf, now); err != nil {
		t.Error(err)
	}
	if old.IssuerPin == w.authority().Value.GetRotation().GetIssuerPin() {
		t.Error("the new authority issued before every edge trusts it")
	}
	w.says("oslo", confirmed, revision+5, "")
	w.step()
	if w.phase() != swanherdv1.CertificateAuthority_PHASE_REISSUING {
		t.Fatalf("phase is %s", w.phase())
	}
	if w.authority().Value.GetRotation().GetOtherKey() != nil {
		t.Error("the old authority's key is kept")
	}
	fresh := map[string]*Certificate{"berlin": w.issue("berlin"), "oslo": w.issue("oslo")}
	for edge, c := range fresh {
		if c.IssuerPin != w.authority().Value.GetRotation().GetIssuerPin() {
			t.Errorf("%s got a certificate of the old authority", edge)
		}
	}
	w.step() // issued is not used
	w.says("berlin", confirmed, revision+9, fresh["berlin"].Serial)
	w.says("oslo", confirmed, revision+9, "not one of its")
	w.step()
	edges, waiting := Progress(w.store.Snapshot(), demo, w.authority(), now)
	if edges != 2 || len(waiting) != 1 || waiting[0].Edge != "networks/demo/edges/oslo" || !strings.Contains(waiting[0].Reason, "not renewed") {
		t.Errorf("of %d edges it waits for %v", edges, waiting)
	}
	if _, err := w.keeper.CancelIn(w.store.Txn(), w.authority()); !errors.Is(err, ErrRotation) {
		t.Errorf("given up after the new authority issued: %v", err)
	}
	w.says("oslo", confirmed, revision+9, fresh["oslo"].Serial)
	w.step()
	after := w.authority().Value
	if after.GetRotation() != nil || string(after.GetCertificate()) == string(before.Value.GetCertificate()) || len(model.TrustAnchors(after)) != 1 {
		t.Errorf("at the end: %v", after)
	}
	if _, err := verifier.Control(w.store.Snapshot(), old.Leaf, now); err == nil {
		t.Error("a certificate of the authority that was dropped is taken")
	}
	want := []string{"certificateAuthority.reissue: 2 of 2", "certificateAuthority.retire: 2 of 2"}
	if len(w.actions) != 2 || !strings.HasPrefix(w.actions[0], want[0]) || !strings.HasPrefix(w.actions[1], want[1]) {
		t.Errorf("audited %q", w.actions)
	}
}

// What an authority signed that another one has replaced meanwhile is not stored.
func TestRotationRefusesCertificatesOfTheAuthorityBefore(t *testing.T) {
	w := newWorld(t)
	a, err := w.keeper.Network(t.Context(), demo)
	if err != nil {
		t.Fatal(err)
	}
	txn := w.store.Txn()
	if _, err := w.keeper.RotateIn(txn, w.authority(), demo, RotateOptions{RenewWithin: time.Minute, Edges: 0, Actor: "token:x"}, now); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	w.step() // there is no edge to wait for
	late := w.store.Txn()
	w.keeper.RequireIssuerIn(late, a)
	w.store.EdgeIdentities.PutIn(late, berlin.String(), &storev1.EdgeIdentity{})
	if _, err := late.Commit(context.Background()); !errors.Is(err, store.ErrConflict) {
		t.Errorf("commit is %v", err)
	}
}

// An edge that has no good certificate any more is not waited for; one that was
// forced past is out.
func TestRotationForcedAndGivenUp(t *testing.T) {
	w := newWorld(t, "berlin")
	txn := w.store.Txn()
	if _, err := w.keeper.RotateIn(txn, w.authority(), demo, RotateOptions{RenewWithin: time.Minute, Edges: 1, Actor: "token:x"}, now); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	txn = w.store.Txn()
	if _, err := w.keeper.CancelIn(txn, w.authority()); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	if w.authority().Value.GetRotation() != nil {
		t.Error("it goes on after it was given up")
	}
	txn = w.store.Txn()
	if _, err := w.keeper.RotateIn(txn, w.authority(), demo, RotateOptions{RenewWithin: time.Minute, Edges: 1, Actor: "token:x"}, now); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	wrong := swanherdv1.CertificateAuthority_PHASE_REISSUING
	if _, err := w.keeper.AdvanceIn(w.store.Txn(), w.authority(), wrong, now); !errors.Is(err, ErrRotation) {
		t.Errorf("another phase than the one it is at was ended: %v", err)
	}
	// berlin's certificates expire: nothing holds it up.
	if _, waiting := Progress(w.store.Snapshot(), demo, w.authority(), now); len(waiting) != 1 {
		t.Errorf("waiting for %v", waiting)
	}
	if edges, waiting := Progress(w.store.Snapshot(), demo, w.authority(), now.Add(IKELifetime+time.Hour)); edges != 0 || len(waiting) != 0 {
		t.Errorf("of %d edges it waits for %v", edges, waiting)
	}
}

func TestExpiryIsToldOnceAtEachNotice(t *testing.T) {
	w := newWorld(t, "berlin", "oslo")
	watch := &ExpiryWatch{Store: w.store}
	told := func() (out []string) {
		t.Helper()
		events, err := w.store.ListEvents(t.Context(), store.EventQuery{Networks: []model.NetworkName{demo}, Former: true, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			out = append(out, e.GetResource()+" "+e.GetMessage())
		}
		return out
	}
	look := func(after time.Duration) int {
		t.Helper()
		if err := watch.Look(t.Context(), now.Add(after)); err != nil {
			t.Fatal(err)
		}
		return len(told())
	}
	for _, step := range []struct {
		after time.Duration
		want  int // in all
	}{
		{0, 0},
		{ControlLifetime - 15*day, 0},
		{ControlLifetime - 14*day, 2}, // both edges
		{ControlLifetime - 13*day, 2},
		{ControlLifetime - 7*day, 4},
		{ControlLifetime + day, 6},      // a day and the end at once
		{IKELifetime - 31*day, 6},       //
		{IKELifetime - 6*day, 8},        // thirty, fourteen and seven days at once
		{AuthorityLifetime - 3*day, 11}, // IKE certificates ended, and the authority will
	} {
		if got := look(step.after); got != step.want {
			t.Fatalf("%v after they were issued %d events, want %d: %q", step.after, got, step.want, told())
		}
	}
	all := strings.Join(told(), "\n")
	for _, want := range []string{"networks/demo/edges/berlin", "networks/demo/certificateAuthority", "swanherd ca rotate", "ended on"} {
		if !strings.Contains(all, want) {
			t.Errorf("no event says %q:\n%s", want, all)
		}
	}
}

func TestExpiryMetrics(t *testing.T) {
	w := newWorld(t)
	txn := w.store.Txn()
	soon, late := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(60*day)
	w.store.EdgeIdentities.PutIn(txn, berlin.String(), &storev1.EdgeIdentity{Certificates: []*storev1.IssuedCertificate{
		{Serial: "1", Purpose: storev1.IssuedCertificate_PURPOSE_IKE, ExpireTime: timestamppb.New(soon)},
		{Serial: "2", Purpose: storev1.IssuedCertificate_PURPOSE_IKE, ExpireTime: timestamppb.New(late)}, // takes its place
		{Serial: "3", Purpose: storev1.IssuedCertificate_PURPOSE_CONTROL, ExpireTime: timestamppb.New(soon)},
	}})
	w.commit(txn)
	registry := prometheus.NewRegistry()
	registry.MustRegister(ExpiryCollector{Snapshot: w.store.Snapshot})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			have[f.GetName()+" "+m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"swanherd_certificates_expiring demo authority":                    0,
		"swanherd_certificates_expiring demo control":                      1,
		"swanherd_certificates_expiring demo ike":                          0,
		"swanherd_certificate_first_expiry_timestamp_seconds demo control": float64(soon.Unix()),
		"swanherd_certificate_first_expiry_timestamp_seconds demo ike":     float64(late.Unix()),
	} {
		if got, ok := have[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
