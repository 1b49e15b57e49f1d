package server_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// watchedKind is a kind of resource that a message of Watch may hold.
type watchedKind struct {
	// collection is the kind's word in WatchRequest.kinds, as in `sites`, singular as in `Site`.
	collection, singular string
	// list is the method that lists it, or gets what there is one of.
	list protoreflect.MethodDescriptor
}

// watchedKinds are all of them, by the descriptor.
func watchedKinds(t testing.TB) (out []watchedKind) {
	t.Helper()
	methods := map[protoreflect.Name]protoreflect.MethodDescriptor{}
	for _, m := range publicMethods(t) {
		methods[m.Name()] = m
	}
	fields := (&swanherdv1.WatchResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("resource").Fields()
	for i := range fields.Len() {
		d := fields.Get(i).Message()
		res := proto.GetExtension(d.Options(), annotations.E_Resource).(*annotations.ResourceDescriptor)
		list := methods["List"+protoreflect.Name(strings.ToUpper(res.GetPlural()[:1])+res.GetPlural()[1:])]
		if list == nil {
			list = methods["Get"+d.Name()]
		}
		if list == nil {
			t.Fatalf("no method lists %s", res.GetPlural())
		}
		out = append(out, watchedKind{res.GetPlural(), string(d.Name()), list})
	}
	return out
}

// mirror is what somebody knows by one stream of Watch.
type mirror struct {
	testing.TB
	name   string
	conn   *grpc.ClientConn
	parent string

	mu     sync.Mutex
	held   map[string]string // by name
	synced bool
	told   tally
	points []point
}

// tally is how often a stream told what of which resource of which kind.
type tally map[[3]string]int

func (t tally) of(what swanherdv1.WatchResponse_Kind, kind, name string) {
	t[[3]string{strings.TrimPrefix(what.String(), "KIND_"), kind, name}]++
}

// point is what was known when a token came.
type point struct {
	token string
	held  map[string]string
}

// mirrors follows all kinds of the parent that the caller may list, or one kind.
func (c *controller) mirrors(name string, conn *grpc.ClientConn, parent string, kinds ...string) *mirror {
	c.t.Helper()
	m := &mirror{TB: c.t, name: name, conn: conn, parent: parent, held: map[string]string{}, told: tally{}}
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	c.t.Cleanup(cancel)
	stream := m.open(ctx, "", kinds...)
	go func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.apply(resp, m.held, m.told)
			if resp.GetResumeToken() != "" {
				m.points = append(m.points, point{resp.GetResumeToken(), maps.Clone(m.held)})
			}
			m.synced = m.synced || resp.GetKind() == swanherdv1.WatchResponse_KIND_SYNCED
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *mirror) open(ctx context.Context, token string, kinds ...string) swanherdv1.TopologyService_WatchClient {
	m.Helper()
	stream, err := swanherdv1.NewTopologyServiceClient(m.conn).Watch(ctx, &swanherdv1.WatchRequest{Parent: m.parent, ResumeToken: token, Kinds: kinds})
	if err != nil {
		m.Fatal(err)
	}
	return stream
}

// apply takes a message in. What is removed must have been there.
func (m *mirror) apply(resp *swanherdv1.WatchResponse, held map[string]string, told tally) {
	r := resp.ProtoReflect()
	field := r.WhichOneof(r.Descriptor().Oneofs().ByName("resource"))
	if field == nil {
		return
	}
	name, text := storedForm(r.Get(field).Message().Interface())
	switch resp.GetKind() {
	case swanherdv1.WatchResponse_KIND_UPSERTED:
		held[name] = text
	case swanherdv1.WatchResponse_KIND_REMOVED:
		if _, ok := held[name]; !ok {
			m.Errorf("%s hears that %s is gone, of which it never heard", m.name, name)
		}
		delete(held, name)
	default:
		m.Errorf("%s hears %v", m.name, resp)
	}
	told.of(resp.GetKind(), string(field.Message().Name()), name)
}

// storedForm is a resource's name and, as text, what of it is stored.
func storedForm(m proto.Message) (name, text string) {
	m = proto.Clone(m)
	switch x := m.(type) {
	case *swanherdv1.Edge:
		x.Status, x.Uplinks = nil, nil
	case *swanherdv1.CertificateAuthority:
		if x.GetRotation() != nil {
			x.Rotation.Edges, x.Rotation.Done, x.Rotation.Waiting = 0, 0, nil
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return m.(interface{ GetName() string }).GetName(), string(m.ProtoReflect().Descriptor().Name()) + string(b)
}

// listed is all that the caller may list of the parent, and get of what is not listed.
func (m *mirror) listed(own *samples, kinds []watchedKind) map[string]string {
	m.Helper()
	all := map[string]string{}
	for _, k := range kinds {
		for name, text := range m.list(own, k) {
			all[name] = text
		}
	}
	return all
}

func (m *mirror) list(own *samples, k watchedKind) map[string]string {
	m.Helper()
	out := map[string]string{}
	take := func(x proto.Message) {
		if a, ok := x.(*swanherdv1.Alert); ok && a.GetState() == swanherdv1.Alert_STATE_PENDING {
			return // it is in no store
		}
		if name, text := storedForm(x); m.parent == "networks/-" || name == m.parent || strings.HasPrefix(name, m.parent+"/") {
			out[name] = text
		}
	}
	for _, req := range m.requests(own, k.list) {
		resp, err := call(m.Context(), m, m.conn, k.list, req)
		switch status.Code(err) {
		case codes.OK:
		case codes.PermissionDenied, codes.NotFound:
			continue
		default:
			m.Fatalf("%s: %v", k.list.Name(), err)
		}
		if k.list.Output().Name() == protoreflect.Name(k.singular) {
			take(resp)
			continue
		}
		resp.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			for i := 0; d.IsList() && i < v.List().Len(); i++ {
				take(v.List().Get(i).Message().Interface())
			}
			return true
		})
	}
	return out
}

// requests are those that list all of a kind: of the parent, or of each authority.
func (m *mirror) requests(own *samples, method protoreflect.MethodDescriptor) (out []proto.Message) {
	fields := method.Input().Fields()
	if fields.ByName("parent") == nil && fields.ByName("name") != nil {
		for _, name := range []string{"networks/alpha/certificateAuthority", "networks/beta/certificateAuthority", "certificateAuthorities/controller"} {
			req := newMessage(m, method.Input())
			setName(req, name)
			out = append(out, req)
		}
		return out
	}
	req := own.request(m, method)
	if d := fields.ByName("parent"); d != nil {
		req.ProtoReflect().Set(d, protoreflect.ValueOfString(m.parent))
	}
	return []proto.Message{req}
}

// agrees waits until what the stream told is what lists show.
func (m *mirror) agrees(c *controller, own *samples, kinds []watchedKind) {
	m.Helper()
	var why string
	defer func() {
		if m.Failed() {
			m.Logf("%s: %s", m.name, why)
		}
	}()
	c.eventually(m.name+" knows by its stream what lists show", func() bool {
		want := m.listed(own, kinds)
		m.mu.Lock()
		defer m.mu.Unlock()
		why = difference(m.held, want)
		return m.synced && why == ""
	})
}

func difference(got, want map[string]string) string {
	var out []string
	for name, text := range want {
		if got[name] == "" {
			out = append(out, "lacks "+name)
		} else if got[name] != text {
			out = append(out, "has another "+name)
		}
	}
	for name := range got {
		if want[name] == "" {
			out = append(out, "still has "+name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// resumes goes on from points that there were, and holds what comes of that to what the
// stream itself led to.
func (m *mirror) resumes(c *controller) {
	m.Helper()
	m.mu.Lock()
	points := slices.Clone(m.points)
	m.mu.Unlock()
	for i := 0; i < len(points); i += max(1, len(points)/24) {
		var why string
		defer func() {
			if m.Failed() && why != "" {
				m.Logf("%s resumed at point %d of %d: %s", m.name, i, len(points), why)
			}
		}()
		c.eventually("who resumes has what the stream led to", func() bool {
			held := m.resumed(points[i])
			m.mu.Lock()
			defer m.mu.Unlock()
			why = difference(held, m.held)
			return why == ""
		})
	}
}

// resumed is what is known to who goes on at the point.
func (m *mirror) resumed(p point) map[string]string {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), 20*time.Second)
	defer cancel()
	stream, held := m.open(ctx, p.token), maps.Clone(p.held)
	for {
		resp, err := stream.Recv()
		if err != nil {
			m.Fatalf("%s resumes: %v", m.name, err)
		}
		m.apply(resp, held, tally{})
		if resp.GetKind() == swanherdv1.WatchResponse_KIND_SYNCED {
			return held
		}
	}
}

// heard says how often the stream told so of a kind in the network.
func (m *mirror) heard(k watchedKind, what, network string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for of, times := range m.told {
		if of[0] == what && of[1] == k.singular && (of[2] == network || strings.HasPrefix(of[2], network+"/") || k.collection == "roleBindings") {
			n += times
		}
	}
	return n
}

// watchers are callers of all sorts, each with its streams.
func (c *controller) watchers() (out []*mirror) {
	c.t.Helper()
	token := func(role swanherdv1.Role, networks ...string) *grpc.ClientConn {
		made, err := c.access().CreateApiToken(c.t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: role, Networks: networks}})
		if err != nil {
			c.t.Fatal(err)
		}
		return c.dial(made.GetSecret())
	}
	for _, x := range []struct {
		who     string
		conn    *grpc.ClientConn
		parents []string
	}{
		{"an administrator", c.dial(c.token), []string{"networks/-", "networks/alpha"}},
		{"a viewer", token(viewer), []string{"networks/-"}},
		{"the administrator of alpha", token(admin, "networks/alpha"), []string{"networks/-", "networks/alpha"}},
		{"a viewer of alpha", token(viewer, "networks/alpha"), []string{"networks/alpha"}},
		{"an administrator of what is in emea", c.limitedTo(admin, "networks/alpha", "region", "emea"), []string{"networks/-"}},
		{"a viewer of what is in apac", c.limitedTo(viewer, "networks/alpha", "region", "apac"), []string{"networks/alpha"}},
	} {
		for _, parent := range x.parents {
			out = append(out, c.mirrors(x.who+" who watches "+parent, x.conn, parent))
		}
	}
	return out
}

// Whoever watches all kinds knows, whatever happens, what lists show to them: each kind as it
// comes, changes and goes, in their scope and not out of it, and where they resume.
func TestWatchShowsWhatListsShow(t *testing.T) {
	c := startController(t)
	kinds := watchedKinds(t)
	alpha := c.populated("networks/alpha")
	alpha.alert(t)
	all := c.watchers()
	agree := func(when string) {
		t.Helper()
		for _, m := range all {
			m.agrees(c, alpha, kinds)
			m.mu.Lock()
			for name := range m.held {
				if strings.Contains(m.name, "alpha") && strings.Contains(name, "beta") {
					t.Errorf("%s: %s knows of %s", when, m.name, name)
				}
			}
			m.mu.Unlock()
		}
	}
	agree("at first")
	for _, m := range all {
		m.asksForEach(kinds)
	}
	beta := c.populated("networks/beta")
	beta.alert(t)
	agree("with another network")
	for _, region := range []string{"apac", "emea"} { // what belongs to the site comes and goes with it
		c.relabel("networks/alpha/sites/berlin", region)
		c.relabel("networks/alpha/sites/rome", region)
		agree("with sites in " + region)
	}
	for _, s := range []*samples{alpha, beta} {
		s.changesEach(c, kinds)
	}
	agree("after changes")
	for _, m := range all {
		m.resumes(c)
	}
	for _, s := range []*samples{beta, alpha} {
		c.resolves(s.network)
	}
	agree("when alerts are resolved")
	for _, s := range []*samples{beta, alpha} {
		s.deletesEach(c, all[0], kinds)
	}
	agree("at last")
	for _, m := range all {
		if m.parent == "networks/-" { // the others are gone
			m.resumes(c)
		}
	}
	for _, k := range kinds {
		for _, network := range []string{"networks/alpha", "networks/beta"} {
			upserted, removed := all[0].heard(k, "UPSERTED", network), all[0].heard(k, "REMOVED", network)
			if changes := k.collection != "roleBindings"; upserted == 0 || removed == 0 || changes && upserted < 2 {
				t.Errorf("%s of %s: %d UPSERTED, %d REMOVED; make it come, change and go in this test", k.collection, network, upserted, removed)
			}
		}
	}
}

// asksForEach asks for each kind alone, and gets it, or the error that lists give.
func (m *mirror) asksForEach(kinds []watchedKind) {
	m.Helper()
	for _, k := range kinds {
		ctx, cancel := context.WithTimeout(m.Context(), 20*time.Second)
		stream := m.open(ctx, "", k.collection)
		var err error
		var got []string
		for synced := false; !synced && err == nil; {
			var resp *swanherdv1.WatchResponse
			resp, err = stream.Recv()
			synced = resp.GetKind() == swanherdv1.WatchResponse_KIND_SYNCED
			if r := resp.ProtoReflect(); err == nil && !synced {
				got = append(got, string(r.WhichOneof(r.Descriptor().Oneofs().ByName("resource")).Message().Name()))
			}
		}
		cancel()
		own := &samples{network: "networks/alpha"}
		_, want := call(m.Context(), m, m.conn, k.list, m.requests(own, k.list)[0])
		if status.Code(err) != status.Code(want) {
			m.Errorf("%s: a stream of %s ends with %v, a list with %v", m.name, k.collection, err, want)
		}
		if slices.ContainsFunc(got, func(name string) bool { return name != k.singular }) {
			m.Errorf("%s: a stream of %s shows %v", m.name, k.collection, got)
		}
	}
	if m.parent != "networks/alpha" {
		return
	}
	stream := (&mirror{TB: m.TB, conn: m.conn, parent: "networks/beta"}).open(m.Context(), "", "sites")
	if _, err := stream.Recv(); status.Code(err) != codes.NotFound && status.Code(err) != codes.PermissionDenied {
		m.Errorf("%s: another network: %v", m.name, err)
	}
}

// changedBy are the methods that change what no Update does.
var changedBy = map[string]protoreflect.Name{
	"changeSets": "PlanChangeSet", "rollouts": "PauseRollout", "jobs": "CancelJob", "devices": "UpdateDevice",
	"enrollmentRequests": "DenyEnrollmentRequest", "certificateAuthorities": "RotateCertificateAuthority",
}

// changesEach changes one of each kind. A rollout that has not ended would be in the way of
// what else changes.
func (s *samples) changesEach(c *controller, kinds []watchedKind) {
	c.t.Helper()
	methods := map[protoreflect.Name]protoreflect.MethodDescriptor{}
	for _, m := range publicMethods(c.t) {
		methods[m.Name()] = m
	}
	ordered := slices.Clone(kinds)
	slices.SortStableFunc(ordered, func(a, b watchedKind) int {
		return strings.Compare(string(changedBy[a.collection]), string(changedBy[b.collection]))
	})
	for _, k := range ordered {
		name := changedBy[k.collection]
		if name == "" {
			name = protoreflect.Name("Update" + k.singular)
		}
		m := methods[name]
		if m == nil {
			continue
		}
		req := s.request(c.t, m)
		if prepare := possible[name]; prepare != nil {
			prepare(c, s, req)
		}
		if _, err := call(c.t.Context(), c.t, c.dial(c.token), m, req); err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	}
}

// deletesEach deletes what there is of the network, and then the network with what is left.
func (s *samples) deletesEach(c *controller, m *mirror, kinds []watchedKind) {
	c.t.Helper()
	methods := map[protoreflect.Name]protoreflect.MethodDescriptor{}
	for _, m := range publicMethods(c.t) {
		methods[m.Name()] = m
	}
	for _, collection := range []string{"rollouts", "roleBindings", "assertions", "gateways", "meshes", "edges", "sites", "segments", "profiles", "networks"} {
		k := kinds[slices.IndexFunc(kinds, func(k watchedKind) bool { return k.collection == collection })]
		verb := "Delete"
		if collection == "rollouts" {
			verb = "Abort"
		}
		in := &mirror{TB: c.t, conn: m.conn, parent: s.network}
		if collection == "roleBindings" {
			in.parent = "networks/-"
		}
		for name := range in.list(s, k) {
			d := methods[protoreflect.Name(verb+k.singular)]
			req := newMessage(c.t, d.Input())
			setName(req, name)
			_, err := call(c.t.Context(), c.t, m.conn, d, req)
			if ended := verb == "Abort" && status.Code(err) == codes.FailedPrecondition; err != nil && !ended {
				c.t.Errorf("%s %s: %v", d.Name(), name, err)
			}
			if verb == "Abort" {
				c.reach(name, "over", func(r *swanherdv1.Rollout) bool { return r.GetEndTime() != nil })
			}
		}
	}
}

// relabel gives a site another region.
func (c *controller) relabel(site, region string) {
	c.t.Helper()
	if _, err := c.topology().UpdateSite(c.t.Context(), &swanherdv1.UpdateSiteRequest{
		Site: &swanherdv1.Site{Name: site, Labels: map[string]string{"region": region}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
	}); err != nil {
		c.t.Fatal(err)
	}
}
