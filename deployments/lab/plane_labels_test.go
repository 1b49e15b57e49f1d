package lab_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
)

// labelled is a host whose kernel's data plane has a label, with the same addresses inside
// in the host's own network namespace and in that of the label.
type labelled struct {
	plane       dataplane.Plane
	plain, corp place
}

// place is where packets come from and go to.
type place struct {
	host     *lab.Namespace
	send     func([]byte) error
	received <-chan []byte
}

// labels has two Child SAs of the same selectors and of two labels: what either carries comes
// from the interface of its label and goes to that of it; what is sent while a label has no
// SA waits or goes nowhere, and never to the other (RFC 9478).
func labels(t *testing.T) {
	hosts := planeWire(t)
	tap := tapWire(t, hosts[1])
	places := labelPlaces(t)
	a, b := labelledHost(t, hosts[0], places[0], 0), labelledHost(t, hosts[1], places[1], 1)
	pair := &planetest.Pair{A: planetest.Side{Plane: a.plane}, B: planetest.Side{Plane: b.plane}}
	plain, corp := childSAs(t, pair, "aes128gcm16-esn"), ofLabel(childSAs(t, pair, "aes128gcm16-esn"))
	mustApply(t, b.plane, plain.policyB, corp.policyB, dataplane.InstallSA{SA: plain.inB}, dataplane.InstallSA{SA: plain.outB},
		dataplane.InstallSA{SA: corp.inB}, dataplane.InstallSA{SA: corp.outB})
	mustApply(t, a.plane, plain.policyA, dataplane.InstallSA{SA: plain.inA}, dataplane.InstallSA{SA: plain.outA})
	a.corp.says(t, "corp without a policy")
	a.plain.says(t, "plain first")
	b.wants(t, "plain first", b.plain)

	mustApply(t, a.plane, corp.policyA)
	a.corp.says(t, "corp waits")
	waitUntil(t, "corp asking for an SA", func() bool {
		select {
		case ev := <-a.plane.Events():
			return ev.Kind == dataplane.Acquire && ev.Tunnel == "corp"
		default:
			return false
		}
	})
	mustApply(t, a.plane, dataplane.InstallSA{SA: corp.inA}, dataplane.InstallSA{SA: corp.outA})
	b.wants(t, "corp waits", b.corp)
	for n := range 3 {
		for _, x := range []struct {
			word     string
			from, to place
			at       *labelled
		}{{"corp there", a.corp, b.corp, b}, {"plain there", a.plain, b.plain, b}, {"corp back", b.corp, a.corp, a}, {"plain back", b.plain, a.plain, a}} {
			word := fmt.Sprintf("%s %d", x.word, n)
			if x.at == a {
				x.from.saysBack(t, word)
			} else {
				x.from.says(t, word)
			}
			x.at.wants(t, word, x.to)
		}
	}

	mustApply(t, a.plane, removal(corp.outA), dataplane.RemovePolicy{Tunnel: "corp", Child: "net"})
	a.corp.says(t, "corp without an SA")
	a.plain.says(t, "plain last")
	b.wants(t, "plain last", b.plain)
	if err := a.plane.Close(); err != nil {
		t.Error(err)
	}
	if n := xfrmObjects(t, hosts[0]); n != 0 {
		t.Errorf("%d states and policies are left", n)
	}
	for _, where := range []place{a.plain, a.corp} {
		if err := where.host.Do(func() error { _, err := netlink.LinkByName(xfrm.DefaultInterface); return err }); err == nil {
			t.Error("an interface is left")
		}
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.clear != 0 || len(tap.seen) == 0 {
		t.Errorf("%d packets were in clear on the wire, and %d were not", tap.clear, len(tap.seen))
	}
}

// labelPlaces makes the network namespaces of a label of two hosts.
func labelPlaces(t testing.TB) (at [2]*lab.Namespace) {
	t.Helper()
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	for i, name := range []string{"corp-a", "corp-b"} {
		var err error
		if at[i], err = n.Add(name); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// corpIn is the label corp, in a network namespace.
func corpIn(enter func(func() error) error) []dataplane.Label {
	return []dataplane.Label{{Name: "corp", Interface: xfrm.DefaultInterface, Enter: enter}}
}

// labelledHost opens the kernel's plane on a host.
func labelledHost(t *testing.T, host, corp *lab.Namespace, i int) *labelled {
	t.Helper()
	x := &labelled{}
	err := host.Do(func() (err error) {
		x.plane, err = xfrm.New(xfrm.Config{Labels: corpIn(corp.Do)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.plane.Close() })
	for _, of := range []struct {
		to *place
		at *lab.Namespace
	}{{&x.plain, host}, {&x.corp, corp}} {
		of.to.host = of.at
		of.to.send, of.to.received = behindPlane(t, of.at, i)
	}
	return x
}

// ofLabel has a Child SA be of another tunnel, with a label.
func ofLabel(c testChild) testChild {
	for _, sa := range []*dataplane.SA{&c.inA, &c.outA, &c.inB, &c.outB} {
		sa.Tunnel, sa.Label = "corp", "corp"
	}
	for _, p := range []*dataplane.SetPolicy{&c.policyA, &c.policyB} {
		p.Policy.Tunnel, p.Policy.Label = "corp", "corp"
	}
	return c
}

func (p place) says(t *testing.T, word string) { p.sends(t, word, false) }

func (p place) saysBack(t *testing.T, word string) { p.sends(t, word, true) }

// sends sends a packet with a word, which is not to be answered.
func (p place) sends(t *testing.T, word string, back bool) {
	t.Helper()
	b := append(clearPacket(), word...)
	b[3], b[25] = byte(len(b)), byte(len(b)-20)
	if back {
		copy(b[12:20], append(bytes.Clone(b[16:20]), b[12:16]...))
	}
	// What no policy takes the kernel may refuse at once.
	_ = p.send(b)
}

// wants waits for a word at one place of the host, and wants nothing of another label there,
// nor the word at the other place.
func (x *labelled) wants(t *testing.T, word string, at place) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		select {
		case b := <-x.plain.received:
			if bytes.Contains(b, []byte("corp")) {
				t.Fatalf("%q came to the interface without a label", b[28:])
			}
			if at.host == x.plain.host && bytes.HasSuffix(b, []byte(word)) {
				return
			}
		case b := <-x.corp.received:
			if bytes.Contains(b, []byte("plain")) || bytes.Contains(b, []byte("corp without")) {
				t.Fatalf("%q came to the interface of corp", b[28:])
			}
			if at.host == x.corp.host && bytes.HasSuffix(b, []byte(word)) {
				return
			}
		case <-limit.C:
			t.Fatalf("%q did not come", word)
		}
	}
}
