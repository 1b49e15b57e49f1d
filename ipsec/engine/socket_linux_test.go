package engine

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

// The socket answers from the address it was asked at, also where it listens on
// all of them.
func TestSocketKeepsTheLocalAddress(t *testing.T) {
	for _, c := range []struct{ listen, a, b string }{
		{"0.0.0.0:0", "127.0.0.2", "127.0.0.3"},
		{"[::]:0", "127.0.0.2", "127.0.0.3"},
		{"[::]:0", "::1", "::1"},
		{"127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
	} {
		type message struct {
			local, remote netip.AddrPort
			data          []byte
		}
		open := func() (*ikeSocket, chan message) {
			s, err := listenIKE(netip.MustParseAddrPort(c.listen), 0)
			if err != nil {
				t.Skipf("SKIPPED: cannot listen on %s (%v); it needs a loopback interface with IPv4 and IPv6", c.listen, err)
			}
			got := make(chan message, 8)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				s.run(func(local, remote netip.AddrPort, b []byte) { got <- message{local, remote, bytes.Clone(b)} })
			}()
			t.Cleanup(func() {
				s.close()
				<-ended
			})
			return s, got
		}
		a, atA := open()
		b, atB := open()
		from := netip.AddrPortFrom(netip.MustParseAddr(c.a), a.port)
		to := netip.AddrPortFrom(netip.MustParseAddr(c.b), b.port)
		receive := func(at chan message, local, remote netip.AddrPort, data string) {
			t.Helper()
			select {
			case m := <-at:
				if m.local != local || m.remote != remote || string(m.data) != data {
					t.Errorf("%s: received %q at %s from %s, want %q at %s from %s", c.listen, m.data, m.local, m.remote, data, local, remote)
				}
			case <-time.After(time.Minute):
				t.Errorf("%s: %q did not arrive", c.listen, data)
			}
		}
		if err := a.send(from, to, []byte("question"), false); err != nil {
			t.Fatal(err)
		}
		receive(atB, to, from, "question")
		if err := b.send(to, from, []byte("answer"), false); err != nil {
			t.Fatal(err)
		}
		receive(atA, from, to, "answer")
		if local, err := a.localFor(to.Addr()); err != nil || !specified(local.Addr()) || local.Port() != a.port {
			t.Errorf("%s: localFor(%s) = %v, %v", c.listen, to.Addr(), local, err)
		}
		if err := a.send(from, netip.AddrPortFrom(to.Addr(), 0), []byte("x"), false); err == nil {
			t.Errorf("%s: sent to port 0", c.listen)
		}
	}
}

func TestSocketOfOneFamilyRefusesTheOther(t *testing.T) {
	s, err := listenIKE(netip.MustParseAddrPort("127.0.0.1:0"), 0)
	if err != nil {
		t.Skipf("SKIPPED: cannot listen on the loopback interface: %v", err)
	}
	defer s.close()
	if err := s.send(netip.AddrPort{}, netip.MustParseAddrPort("[::1]:500"), []byte("x"), false); err == nil {
		t.Error("sent to an IPv6 address")
	}
	if _, err := listenIKE(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port), 0); err == nil {
		t.Error("listened twice on one port")
	}
}
