package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// at is a connection that says where it is.
type at struct {
	net.Conn
	local  netip.Addr
	closed *atomic.Int32
}

func (c at) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.local, 1)) }

func (c at) Close() error {
	c.closed.Add(1)
	return nil
}

// TestWaysOut: the controller is reached by the routing table where that leads there, else by
// an uplink that does, the cheap one first, while none that hangs holds up the others for more
// than a second; connections that come too late are closed.
func TestWaysOut(t *testing.T) {
	two := []*swanherdv1.Uplink{
		{Name: "lte", Addresses: []string{"192.0.2.1"}, Metered: true},
		{Name: "dsl", Addresses: []string{"192.0.2.2"}, Cost: 20},
		{Name: "fibre", Addresses: []string{"192.0.2.3", "2001:db8::3"}, Cost: 10},
	}
	const never = time.Hour
	for name, tt := range map[string]struct {
		uplinks []*swanherdv1.Uplink
		down    map[string]string
		// ways are how long each takes to lead there, negative until it fails; of the routing
		// table the empty one. The others refuse at once.
		ways  map[string]time.Duration
		want  string // empty: none
		after time.Duration
		// late are the connections that come when another one has: the ways do not hear then
		// that they are no longer wanted.
		late int32
	}{
		"by the routing table":   {uplinks: two, ways: map[string]time.Duration{"": 100 * time.Millisecond, "192.0.2.3": 0}, want: "198.51.100.1", after: 100 * time.Millisecond},
		"that is slow":           {uplinks: two, ways: map[string]time.Duration{"": 1500 * time.Millisecond, "192.0.2.3": never}, want: "198.51.100.1", after: 1500 * time.Millisecond},
		"that hangs":             {uplinks: two, ways: map[string]time.Duration{"": never, "192.0.2.3": 0}, want: "192.0.2.3", after: time.Second},
		"that refuses":           {uplinks: two, ways: map[string]time.Duration{"192.0.2.3": 0}, want: "192.0.2.3"},
		"the cheap one is down":  {uplinks: two, down: map[string]string{"fibre": "no carrier"}, ways: map[string]time.Duration{"": never, "192.0.2.3": 0, "192.0.2.2": 0}, want: "192.0.2.2", after: time.Second},
		"the metered one alone":  {uplinks: two, ways: map[string]time.Duration{"": never, "192.0.2.3": never, "2001:db8::3": never, "192.0.2.2": -time.Minute, "192.0.2.1": 0}, want: "192.0.2.1", after: 4 * time.Second},
		"two at once":            {uplinks: two, ways: map[string]time.Duration{"": never, "192.0.2.3": 2 * time.Second, "2001:db8::3": time.Second}, want: "", after: 3 * time.Second, late: 1},
		"with one uplink":        {uplinks: two[:1], ways: map[string]time.Duration{"": -5 * time.Second, "192.0.2.1": 0}, after: 5 * time.Second},
		"none leads there":       {uplinks: two, ways: map[string]time.Duration{"": -5 * time.Second}, after: 5 * time.Second},
		"and the patience is up": {uplinks: two, ways: map[string]time.Duration{"": never, "192.0.2.3": never, "2001:db8::3": never, "192.0.2.2": never, "192.0.2.1": never}, after: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var closed atomic.Int32
				w := &waysOut{
					uplinks: func() []*swanherdv1.Uplink { return tt.uplinks }, down: func() map[string]string { return tt.down },
					connect: func(ctx context.Context, from netip.Addr, _ string) (net.Conn, error) {
						text := strings.TrimPrefix(from.String(), "invalid IP")
						takes, ok := tt.ways[text]
						if !ok {
							return nil, errors.New("refused")
						}
						if tt.late > 0 && takes != never {
							ctx = context.WithoutCancel(ctx)
						}
						wait := time.NewTimer(max(takes, -takes))
						defer wait.Stop()
						select {
						case <-ctx.Done():
							return nil, ctx.Err()
						case <-wait.C:
						}
						if takes < 0 {
							return nil, fmt.Errorf("from %s: no answer", text)
						}
						if !from.IsValid() {
							from = netip.MustParseAddr("198.51.100.1")
						}
						return at{local: from, closed: &closed}, nil
					},
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				began := time.Now()
				conn, err := w.Dial(ctx, "controller:7444")
				took := time.Since(began)
				got := ""
				if conn != nil {
					got = conn.(at).local.String()
				}
				wrong := got != tt.want
				if tt.late > 0 { // either of two that come at the same time
					wrong = got == ""
				}
				if wrong || took != tt.after || (err == nil) != (got != "") {
					t.Errorf("by %q after %v (%v), want %q after %v", got, took, err, tt.want, tt.after)
				}
				cancel()
				synctest.Wait()
				if closed.Load() != tt.late {
					t.Errorf("%d connections were closed, want %d", closed.Load(), tt.late)
				}
			})
		})
	}
}

// TestSessionLeavesDeadUplinks: that the uplink of the session is down, or has another
// address, is told once, and what becomes of others is not.
func TestSessionLeavesDeadUplinks(t *testing.T) {
	first, second := &swanherdv1.Uplink{Name: "wan1"}, &swanherdv1.Uplink{Name: "wan2"}
	down := map[string]string{}
	var closed atomic.Int32
	w := &waysOut{uplinks: func() []*swanherdv1.Uplink { return []*swanherdv1.Uplink{first, second} }, down: func() map[string]string { return down }}
	lost := func(when string, want bool) {
		t.Helper()
		if w.Lost() != want || w.Lost() {
			t.Errorf("%s: not as it should be, want %t once", when, want)
		}
	}
	session := func(from string) {
		first.Addresses, second.Addresses = []string{"192.0.2.1"}, []string{"198.51.100.1"}
		clear(down)
		w.note(at{local: netip.MustParseAddr(from), closed: &closed})
	}
	lost("before there is a session", false)
	session("192.0.2.1")
	lost("at first", false)
	second.Addresses, down["wan2"] = nil, "no address"
	lost("when the other uplink is down", false)
	down["wan1"] = "no carrier"
	lost("when its own is", true)
	session("192.0.2.1")
	first.Addresses = []string{"192.0.2.9"}
	lost("when its own has another address", true)
	session("10.1.0.1") // from a LAN, or through a tunnel
	first.Addresses, down["wan1"], down["wan2"] = nil, "no carrier", "no carrier"
	lost("when it goes by none", false)
}
