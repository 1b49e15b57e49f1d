package edge

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// wayOutPause is how long one way to the controller is tried alone before the next one is
// tried beside it.
const wayOutPause = time.Second

// waysOut connects to the controller by whichever uplink leads there: by the routing table,
// which may hold on to an uplink that is dead beyond its cable, and else from the address of
// each uplink, which hostnet has leave by that one.
type waysOut struct {
	uplinks func() []*swanherdv1.Uplink
	down    func() map[string]string
	// connect makes a connection, from an address or the zero Addr for any.
	connect func(ctx context.Context, from netip.Addr, endpoint string) (net.Conn, error)

	mu   sync.Mutex
	last wayOut // of the last connection, zero if it is by no uplink
}

// wayOut is an address of an uplink.
type wayOut struct {
	uplink string
	from   netip.Addr
}

// ways are those that may lead out, in the order in which they are tried: after the routing
// table the uplinks that are up, of which those that are not metered go first, then those of
// the least cost. With one uplink there is no other way.
func (w *waysOut) ways() []netip.Addr {
	ways := []netip.Addr{{}}
	up, down := slices.Clone(w.uplinks()), w.down()
	if len(up) < 2 {
		return ways
	}
	slices.SortStableFunc(up, func(a, b *swanherdv1.Uplink) int {
		if a.GetMetered() != b.GetMetered() {
			return map[bool]int{false: -1, true: 1}[a.GetMetered()]
		}
		return cmp.Compare(a.GetCost(), b.GetCost())
	})
	for _, u := range up {
		if down[u.GetName()] != "" {
			continue
		}
		for _, a := range addressesOf(u) {
			ways = append(ways, a)
		}
	}
	return ways
}

func addressesOf(u *swanherdv1.Uplink) (out []netip.Addr) {
	for _, text := range u.GetAddresses() {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// attempt is what became of one way.
type attempt struct {
	conn net.Conn
	err  error
}

// Dial makes the TCP connection of a session. The first way that leads to the endpoint is
// taken, and those that come later are closed.
func (w *waysOut) Dial(ctx context.Context, endpoint string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ways := w.ways()
	results := make(chan attempt)
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for begun, ended := 0, 0; ended < len(ways); {
		select {
		case <-next.C:
			if begun < len(ways) {
				go w.try(ctx, ways[begun], endpoint, results)
				begun++
				next.Reset(wayOutPause)
			}
		case r := <-results:
			if ended++; r.err == nil {
				w.note(r.conn)
				return r.conn, nil
			}
			errs = append(errs, r.err)
			next.Reset(0)
		case <-ctx.Done():
			return nil, errors.Join(append(errs, ctx.Err())...)
		}
	}
	return nil, errors.Join(errs...)
}

func (w *waysOut) try(ctx context.Context, from netip.Addr, endpoint string, to chan<- attempt) {
	conn, err := w.connect(ctx, from, endpoint)
	select {
	case to <- attempt{conn, err}:
	case <-ctx.Done():
		if conn != nil {
			conn.Close()
		}
	}
}

// note remembers by which uplink the session goes.
func (w *waysOut) note(conn net.Conn) {
	var last wayOut
	if at, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		for _, u := range w.uplinks() {
			if from := at.Addr().Unmap(); slices.Contains(addressesOf(u), from) {
				last = wayOut{u.GetName(), from}
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = last
}

// Lost reports, once, that the session goes by an uplink that is down or has another address
// now: TCP would find out much later.
func (w *waysOut) Lost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last.uplink == "" {
		return false
	}
	for _, u := range w.uplinks() {
		if u.GetName() == w.last.uplink && slices.Contains(addressesOf(u), w.last.from) && w.down()[u.GetName()] == "" {
			return false
		}
	}
	w.last = wayOut{}
	return true
}
