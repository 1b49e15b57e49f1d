package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/query"
	"github.com/swanherd/swanherd/server/store"
)

const (
	defaultPageSize = 100
	maxPageSize     = 1000
	// maxAnswer bounds the rows of an answer in octets, unless one row is longer: a
	// client takes 4 MiB unless it was told otherwise. Of rows that are long a page
	// has fewer than were asked for (AIP-158).
	maxAnswer = 3 << 20
)

// room is how many octets an answer has left.
type room int

// takes says whether there is room for m, and takes it up. The first has room.
func (r *room) takes(m proto.Message) bool { return r.has(proto.Size(m)) }

// has is takes for a text.
func (r *room) has(octets int) bool {
	octets += fieldOverhead
	if *r < maxAnswer && octets > int(*r) {
		return false
	}
	*r -= room(octets)
	return true
}

// fieldOverhead is the tag and the length of an element of a repeated field.
const fieldOverhead = 6

// listRequest is what the requests of List have in common.
type listRequest interface {
	proto.Message
	GetPageSize() int32
	GetPageToken() string
}

// pageToken says where a list goes on.
type pageToken struct {
	// Query is a hash of all that makes the list, so that a token is good for no
	// other (AIP-158).
	Query []byte `json:"q"`
	// Revision is that of the store at which the list began. Zero for what is not
	// stored.
	Revision int64 `json:"r,omitempty"`
	// After is the name of the last one on the page before, Index how many there
	// were up to it.
	After string `json:"a"`
	Index int    `json:"i,omitempty"`
}

func (t pageToken) encode() string {
	b, err := json.Marshal(t)
	if err != nil { // texts and numbers
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// listQuery is what a request of List asks for.
type listQuery struct {
	parent string
	filter query.Filter
	order  query.Order
	size   int
	token  pageToken
}

var errPageToken = access.Invalid("page_token", "is not from the previous answer to the same request; start without one")

// newQuery reads a request for messages of the type d.
func newQuery(ctx context.Context, req listRequest, d protoreflect.MessageDescriptor) (*listQuery, error) {
	q := &listQuery{size: pageSize(req.GetPageSize())}
	q.parent, _ = parentOf(req)
	var wrong []access.Violation
	var err error
	if r, ok := req.(interface{ GetFilter() string }); ok {
		if q.filter, err = query.ParseFilter(r.GetFilter(), d); err != nil {
			wrong = append(wrong, access.Violation{Field: "filter", Message: err.Error()})
		}
	}
	if r, ok := req.(interface{ GetOrderBy() string }); ok {
		if q.order, err = query.ParseOrder(r.GetOrderBy(), d); err != nil {
			wrong = append(wrong, access.Violation{Field: "order_by", Message: err.Error()})
		}
	}
	if len(wrong) > 0 {
		return nil, access.InvalidAll(wrong)
	}
	sum, err := querySum(ctx, req)
	if err != nil {
		return nil, err
	}
	q.token.Query = sum
	if req.GetPageToken() == "" {
		return q, nil
	}
	var t pageToken
	b, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil || json.Unmarshal(b, &t) != nil || !slices.Equal(t.Query, sum) || t.After == "" || t.Index < 0 {
		return nil, errPageToken
	}
	q.token = t
	return q, nil
}

// querySum is a hash of the method and the request, but for what may differ from
// page to page.
func querySum(ctx context.Context, req listRequest) ([]byte, error) {
	same := proto.Clone(req).ProtoReflect()
	for _, name := range []protoreflect.Name{"page_token", "page_size"} {
		same.Clear(same.Descriptor().Fields().ByName(name))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(same.Interface())
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	method, _ := grpc.Method(ctx)
	sum := sha256.Sum256(append([]byte(method), b...))
	return sum[:8], nil
}

func parentOf(req proto.Message) (string, bool) {
	r, ok := req.(interface{ GetParent() string })
	if !ok {
		return "", false
	}
	return r.GetParent(), true
}

// snapshot is the state that the list is of: that at which its first page was.
func (q *listQuery) snapshot(ctx context.Context, s *store.Store, present *store.Snapshot) (*store.Snapshot, error) {
	if q.token.Revision == 0 {
		if q.token.After != "" {
			return nil, errPageToken
		}
		q.token.Revision = present.Revision
		s.Keep(present)
		return present, nil
	}
	snap, err := s.SnapshotAt(ctx, q.token.Revision)
	if errors.Is(err, store.ErrPast) {
		return nil, access.Invalid("page_token", "is too old: the store does not keep that revision any more; start without one")
	}
	return snap, access.StoreError(err)
}

// first is the name after which the list goes on, where that is all there is to it.
func (q *listQuery) first() string {
	if q.order.Empty() {
		return q.token.After
	}
	return ""
}

// named is what pages are made of.
type named interface {
	proto.Message
	GetName() string
}

// page takes the wanted page from a sequence in the order of names that begins
// after q.first().
func page[T named](q *listQuery, from iter.Seq[T]) (out []T, next string) {
	left := room(maxAnswer)
	if !q.order.Empty() {
		return orderedPage(q, from)
	}
	for m := range from {
		if !q.filter.Matches(m.ProtoReflect()) {
			continue
		}
		if len(out) == q.size || !left.takes(m) {
			return out, q.next(out[len(out)-1].GetName(), len(out))
		}
		out = append(out, m)
	}
	return out, ""
}

// orderedPage goes on after the last one of the page before, or where that one is
// no more, as may be with what is not stored, after as many as there were.
func orderedPage[T named](q *listQuery, from iter.Seq[T]) (out []T, next string) {
	var all []T
	for m := range from {
		if q.filter.Matches(m.ProtoReflect()) {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b T) int { return q.order.Compare(a.ProtoReflect(), b.ProtoReflect()) })
	start := min(q.token.Index, len(all))
	if i := slices.IndexFunc(all, func(m T) bool { return m.GetName() == q.token.After }); i >= 0 {
		start = i + 1
	}
	left := room(maxAnswer)
	end := start
	for end < min(start+q.size, len(all)) && left.takes(all[end]) {
		end++
	}
	if out = all[start:end]; end == len(all) {
		return out, ""
	}
	return out, q.next(out[len(out)-1].GetName(), end)
}

func (q *listQuery) next(after string, index int) string {
	t := q.token
	t.After, t.Index = after, index
	return t.encode()
}

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPageSize
	}
	return min(int(asked), maxPageSize)
}

// checkParent refuses a parent that is no network, or one that does not exist.
func checkParent(t *model.Topology, parent string) error {
	if parent == fleet.AllNetworks {
		return nil
	}
	if _, err := model.ParseNetworkName(parent); err != nil {
		return access.Invalid("parent", err.Error()+"; networks/- stands for all")
	}
	if _, ok := t.Networks.Get(parent); !ok {
		return status.Errorf(codes.NotFound, "%s does not exist", parent)
	}
	return nil
}

// rowsOf yields the rows of a collection in parent that are in the caller's scope and
// that come after that name.
func rowsOf[T any](table model.Table[T], parent, after string, scope access.Scope) iter.Seq[model.Row[T]] {
	prefix := ""
	if parent != "" && parent != fleet.AllNetworks {
		prefix = parent + "/"
	}
	return func(yield func(model.Row[T]) bool) {
		for row := range table.After(max(after, prefix)) {
			if !strings.HasPrefix(row.Name, prefix) {
				return
			}
			if scope.Sees(subject(row)) && !yield(row) {
				return
			}
		}
	}
}

// subject is the name by which it is decided who sees a row: its own, or that of what it
// is about.
func subject[T any](row model.Row[T]) string {
	if about, ok := any(row.Value).(interface{ GetResource() string }); ok {
		return about.GetResource()
	}
	return row.Name
}

// scopeOf is the caller's scope in the snapshot.
func scopeOf(ctx context.Context, snap *store.Snapshot) access.Scope {
	return access.PrincipalFrom(ctx).Scope(snap)
}

// parentRequest is a listRequest about what networks have.
type parentRequest interface {
	listRequest
	GetParent() string
}

// listRows is one page of a collection, as shown makes it of what is stored.
func listRows[T proto.Message, R named](ctx context.Context, s *store.Store, req parentRequest,
	rows func(*store.Snapshot) model.Table[T], shown func(*store.Snapshot, model.Row[T]) R,
) ([]R, string, error) {
	snap := s.Snapshot()
	if err := checkParent(&snap.Topology, req.GetParent()); err != nil {
		return nil, "", err
	}
	var none R
	q, err := newQuery(ctx, req, none.ProtoReflect().Descriptor())
	if err != nil {
		return nil, "", err
	}
	if snap, err = q.snapshot(ctx, s, snap); err != nil {
		return nil, "", err
	}
	all := rowsOf(rows(snap), req.GetParent(), q.first(), scopeOf(ctx, snap))
	out, next := page(q, func(yield func(R) bool) {
		for row := range all {
			if !yield(shown(snap, row)) {
				return
			}
		}
	})
	return out, next, nil
}
