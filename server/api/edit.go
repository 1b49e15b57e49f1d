package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/store"
)

// maxAudits is how many changes of one edit are audited one by one. Of more,
// as in the import of a fleet, one event per network tells.
const maxAudits = 50

// edit is a change of the topology in the making: the topology as it would be,
// and what else belongs into the same transaction.
type edit struct {
	svc   *Topology
	actor string
	who   access.Principal
	// breakGlass is why it is to pass without approval; empty: it is not.
	breakGlass string
	now        time.Time
	base       *store.Snapshot
	next       model.Topology
	txn        *store.Txn

	changes []*swanherdv1.ResourceChange
	// rollout is the one that the edit is the end of, `networks/{network}/rollouts/{rollout}`.
	rollout string
	// within is where in the request the manifest is.
	within string
	// fields maps names to where in the request the resource is.
	fields     model.Fields
	violations []access.Violation
	obstacles  []access.Obstacle
}

// begin starts an edit of the newest topology.
func (s *Topology) begin(ctx context.Context) *edit {
	base := s.store.Snapshot()
	return &edit{
		svc:   s,
		actor: access.PrincipalFrom(ctx).Actor,
		who:   access.PrincipalFrom(ctx),

		breakGlass: access.BreakGlass(ctx),

		now:    time.Now(),
		base:   base,
		next:   base.Topology,
		txn:    s.store.Txn(),
		within: "manifest.",
		fields: model.Fields{},
	}
}

// put makes the resource be what want says, whether it exists or not; in the
// request it is called as its kind is.
func put[T resource](e *edit, k kind[T], want T) error {
	name := want.GetName()
	e.fields[name] = k.word
	next := proto.Clone(want).(T)
	clearUnwritable(next)
	old, exists := k.rows(&e.base.Topology).Get(name)
	if !exists {
		e.note(name, swanherdv1.ResourceChange_ACTION_CREATED, nil)
		setRow(e, k, name, next)
		return nil
	}
	if err := checkETag(name, want.GetEtag(), old.Revision); err != nil {
		return err
	}
	changed := model.ChangedFields(old.Value, next)
	if len(changed) == 0 {
		e.note(name, swanherdv1.ResourceChange_ACTION_UNCHANGED, nil)
		return nil
	}
	model.Assign(next, old.Value)
	e.note(name, swanherdv1.ResourceChange_ACTION_UPDATED, changed)
	setRow(e, k, name, next)
	return nil
}

// setRow puts a changed resource, which nobody else holds yet, into the
// topology as it would be.
func setRow[T resource](e *edit, k kind[T], name string, value T) {
	rows := k.rows(&e.next)
	*rows = rows.With(model.Row[T]{Name: name, Value: value})
}

// remove deletes the resource at the given etag; empty: at any.
func remove[T resource](e *edit, k kind[T], name, etag string) error {
	old, exists := k.rows(&e.base.Topology).Get(name)
	if !exists {
		return status.Errorf(codes.NotFound, "%s does not exist", name)
	}
	if err := checkETag(name, etag, old.Revision); err != nil {
		return err
	}
	rows := k.rows(&e.next)
	*rows = rows.Without(name)
	e.note(name, swanherdv1.ResourceChange_ACTION_DELETED, nil)
	return nil
}

// checkETag refuses a change to a resource that somebody else wrote since the
// client read it (AIP-154).
func checkETag(name, etag string, revision int64) error {
	if etag == "" {
		return nil
	}
	if want, err := store.ParseETag(etag); err != nil || want != revision {
		return access.WrongETag(name, store.ETag(revision), etag)
	}
	return nil
}

func (e *edit) note(name string, action swanherdv1.ResourceChange_Action, fields []string) {
	e.changes = append(e.changes, &swanherdv1.ResourceChange{Name: name, Action: action, Fields: fields})
}

// check validates the topology as it would be. What is wrong with the request is
// INVALID_ARGUMENT; what would be wrong with what is there already, as a mesh that
// names a site that goes, is in the way: FAILED_PRECONDITION.
func (e *edit) check() error {
	if err := e.checkScope(); err != nil {
		return err
	}
	e.violate(model.ValidateState(&e.next, e.fields, e.sees()))
	e.checkMoves()
	if len(e.violations)+len(e.obstacles) == 0 {
		if err := e.checkStanding(); err != nil {
			return err
		}
	}
	switch {
	case len(e.violations) > 0:
		return access.InvalidAll(e.violations)
	case len(e.obstacles) > 0:
		first := e.obstacles[0]
		return access.InUse(fmt.Sprintf("%s is in the way: %s", first.Subject, first.Description), e.obstacles)
	}
	return nil
}

// checkScope refuses what labels keep from the caller: what changes has to carry them as
// it is, and as it will be.
func (e *edit) checkScope() error {
	was, is := e.scopes()
	if !was.Limited() {
		return nil
	}
	for _, c := range e.changes {
		created, deleted := c.GetAction() == swanherdv1.ResourceChange_ACTION_CREATED, c.GetAction() == swanherdv1.ResourceChange_ACTION_DELETED
		switch {
		case c.GetAction() == swanherdv1.ResourceChange_ACTION_UNCHANGED:
		case !created && !was.Changes(c.GetName()), !deleted && !is.Changes(c.GetName()):
			if _, asked := e.fields[c.GetName()]; !asked && deleted {
				return was.Denied("what the manifest leaves out in " + networkOf(c.GetName()).String())
			}
			return was.Denied(c.GetName())
		}
	}
	for c := range model.Diff(e.base.Sites, e.next.Sites) {
		if c.New == nil {
			continue
		}
		if segment := was.Enters(c.New.Value); segment != "" {
			return was.Denied(segment)
		}
	}
	return nil
}

// sees says whether the caller may be told of what has a name, as it is or as it would be;
// nil: of all.
func (e *edit) sees() func(name string) bool {
	was, is := e.scopes()
	if !was.Limited() {
		return nil
	}
	return func(name string) bool { return was.Sees(name) || is.Sees(name) }
}

// scopes are the caller's scope as the topology is, and as it would be.
func (e *edit) scopes() (was, is access.Scope) {
	next := *e.base
	next.Topology = e.next
	return e.who.Scope(e.base), e.who.Scope(&next)
}

// checkMoves refuses to move an edge to a site that is not there. An edge
// outlives its own site, so this is about what the edit changes only.
func (e *edit) checkMoves() {
	for c := range model.Diff(e.base.Edges, e.next.Edges) {
		if c.New == nil || c.Old != nil && c.Old.Value.GetSite() == c.New.Value.GetSite() {
			continue
		}
		site, network := c.New.Value.GetSite(), networkOf(c.Name)
		if _, ok := e.next.Sites.Get(site); ok && networkOf(site) == network {
			continue
		}
		e.violations = append(e.violations, access.Violation{
			Field:   edges.word + ".site",
			Message: fmt.Sprintf("%q is no site of %s; create it, or name one that is there", site, network),
		})
	}
}

// violate adds what package model found: violations in the request, obstacles in
// what was stored before.
func (e *edit) violate(found model.Violations) {
	sees := e.sees()
	for _, v := range found {
		message := v.Problem
		if v.Remedy != "" {
			message += "; " + v.Remedy
		}
		if _, asked := e.fields[v.Resource]; !asked && v.Resource != "" {
			if sees != nil && !sees(v.Resource) {
				e.obstacles = append(e.obstacles, access.Obstacle{
					Subject: networkOf(v.Resource).String(), Description: model.Outside + " needs it as it is; ask who has the whole network",
				})
				continue
			}
			e.obstacles = append(e.obstacles, access.Obstacle{Subject: v.Resource, Description: v.Field + ": " + message})
			continue
		}
		e.violations = append(e.violations, access.Violation{Field: v.Field, Message: message})
	}
}

// changed says whether the edit does anything to the topology.
func (e *edit) changed() bool {
	return slices.ContainsFunc(e.changes, func(c *swanherdv1.ResourceChange) bool {
		return c.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED
	})
}

// commit stores the edit, and returns the revision at which it took effect; when
// there is nothing to store, that which it was made from. What it stored is in the
// snapshot then. The error is store.ErrConflict when somebody else changed the
// network since begin.
func (e *edit) commit(ctx context.Context) (int64, error) {
	if e.changed() {
		if err := e.checkRollouts(); err != nil {
			return 0, err
		}
		if err := e.checkApproval(); err != nil {
			return 0, err
		}
		e.svc.store.ChangeTopologyIn(e.txn, &e.base.Topology, &e.next)
		e.audit()
		if err := e.record(); err != nil {
			return 0, err
		}
	} else if e.txn.Empty() {
		return e.base.Revision, nil
	}
	revision, err := e.txn.Commit(ctx)
	if err != nil {
		return 0, err
	}
	if !e.changed() {
		return e.base.Revision, nil
	}
	if _, err := e.svc.store.WaitRevision(ctx, revision); err != nil {
		return 0, status.FromContextError(ctx.Err()).Err()
	}
	for network := range e.changedNetworks() {
		trimRevisions(ctx, e.svc.store, network)
	}
	return revision, nil
}

// stamp sets on changed resources what the server assigns, and makes the
// authorities of new networks.
func (e *edit) stamp() error {
	for c := range model.Diff(e.base.Networks, e.next.Networks) {
		if c.Old != nil {
			continue
		}
		if err := e.svc.pki.CreateNetworkIn(e.txn, networkOf(c.Name), e.now); err != nil {
			return status.Errorf(codes.Internal, "make the authority of %s: %v", c.Name, err)
		}
	}
	stampRows(e, networks)
	stampRows(e, profiles)
	stampRows(e, segments)
	stampRows(e, sites)
	stampRows(e, meshes)
	stampRows(e, gateways)
	stampRows(e, assertions)
	stampRows(e, edges)
	return nil
}

func stampRows[T resource](e *edit, k kind[T]) {
	for c := range model.Diff(*k.rows(&e.base.Topology), *k.rows(&e.next)) {
		if c.New == nil {
			continue
		}
		if c.Old == nil {
			setString(c.New.Value, "uid", strings.ToLower(ulid.Make().String()))
			setTime(c.New.Value, "create_time", timestamppb.New(e.now))
		}
		setString(c.New.Value, "etag", "")
		setTime(c.New.Value, "update_time", timestamppb.New(e.now))
	}
}

// audit adds to the transaction who changed what.
func (e *edit) audit() {
	var done []*swanherdv1.ResourceChange
	for _, c := range e.changes {
		if c.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED {
			done = append(done, c)
		}
	}
	if len(done) > maxAudits {
		e.auditSummary(done)
		return
	}
	for _, c := range done {
		message := ""
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_UPDATED {
			message = strings.Join(c.GetFields(), ", ")
		}
		event := access.Audit(e.actor, c.GetName(), wordOf(c.GetName())+"."+verb(c.GetAction()), message)
		log := networkOf(c.GetName())
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_DELETED && log.String() == c.GetName() {
			log = store.NoNetwork // nobody can ask for that of the network any longer
		}
		e.svc.store.AppendEventIn(e.txn, log, event)
	}
}

func (e *edit) auditSummary(done []*swanherdv1.ResourceChange) {
	counts := map[model.NetworkName]map[string]int{}
	for _, c := range done {
		n := networkOf(c.GetName())
		if counts[n] == nil {
			counts[n] = map[string]int{}
		}
		counts[n][wordOf(c.GetName())+"."+verb(c.GetAction())]++
	}
	for n, c := range counts {
		var parts []string
		for action, count := range c {
			parts = append(parts, fmt.Sprintf("%s %d", action, count))
		}
		slices.Sort(parts)
		e.svc.store.AppendEventIn(e.txn, n, access.Audit(e.actor, n.String(), "manifest.apply", strings.Join(parts, ", ")))
	}
}

func verb(a swanherdv1.ResourceChange_Action) string {
	switch a {
	case swanherdv1.ResourceChange_ACTION_CREATED:
		return "create"
	case swanherdv1.ResourceChange_ACTION_DELETED:
		return "delete"
	default:
		return "update"
	}
}

// wordOf is the kind of the resource that a name names.
func wordOf(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) < 4 {
		return networks.word
	}
	switch parts[2] {
	case meshes.collection:
		return meshes.word
	default:
		return strings.TrimSuffix(parts[2], "s")
	}
}

// removeEdge deletes an edge with all that belongs to it, and revokes its
// certificates.
func (e *edit) removeEdge(name model.EdgeName, etag string) error {
	if err := remove(e, edges, name.String(), etag); err != nil {
		return err
	}
	s := e.svc.store
	if identity, ok := e.base.EdgeIdentities.Get(name.String()); ok {
		pki.RevokeIn(e.txn, s, name, identity.Value, "edge deleted", e.now)
		s.EdgeIdentities.DropIn(e.txn, name.String())
	}
	s.EdgeStatuses.DropIn(e.txn, name.String())
	return nil
}
