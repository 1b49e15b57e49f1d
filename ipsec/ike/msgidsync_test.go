package ike

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// member is the standby member of a cluster that takes an IKE SA of a node over.
type member struct {
	n  *node
	sa *ikeSA
}

// takeOver makes the node's IKE SA that of a member which lags behind by some
// requests in both directions.
func takeOver(n *node, behind uint32) *member {
	sa := n.t.primary()
	sa.window.nextSend -= min(behind, sa.window.nextSend)
	sa.window.nextReceive -= min(behind, sa.window.nextReceive)
	sa.window.outstanding, sa.active, sa.wantProbe = nil, nil, false
	return &member{n, sa}
}

// request is the synchronisation request with M1 and P1 of RFC 6311, Section 5.1.
func (m *member) request(t testing.TB, m1, p1 uint32, more ...wire.Payload) []byte {
	t.Helper()
	data := []byte("nonc")
	data = binary.BigEndian.AppendUint32(data, m1)
	data = binary.BigEndian.AppendUint32(data, p1)
	payloads := append([]wire.Payload{&wire.Notify{Kind: wire.NotifyIKEv2MessageIDSync, Data: data}}, more...)
	datagrams, err := m.sa.protect(wire.Header{Exchange: wire.ExchangeInformational}, payloads)
	if err != nil {
		t.Fatal(err)
	}
	return datagrams[0]
}

// take takes the answer, and returns M2 and P2.
func (m *member) take(t testing.TB, p *packet) (m2, p2 uint32) {
	t.Helper()
	parsed, err := wire.Parse(p.data)
	if err != nil {
		t.Fatal(err)
	}
	payloads, note := m.n.w.peek(parsed, parsed.Payloads[0].(*wire.Encrypted).FirstInner)
	n := (&message{payloads: payloads}).notify(wire.NotifyIKEv2MessageIDSync)
	if note != "" || n == nil || len(payloads) != 1 || parsed.MessageID != 0 || !parsed.IsResponse() || !bytes.Equal(n.Data[:4], []byte("nonc")) {
		t.Fatalf("answer %s%s with message ID %d", m.n.w.render(p.data), note, parsed.MessageID)
	}
	p2, m2 = binary.BigEndian.Uint32(n.Data[4:]), binary.BigEndian.Uint32(n.Data[8:])
	m.sa.window.nextSend, m.sa.window.nextReceive = m2, p2
	return m2, p2
}

func syncPair(t *testing.T) *world {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	for range 3 {
		w.a.step(RekeyChild{})
		w.settle()
		w.b.step(RekeyChild{})
		w.settle()
	}
	return w
}

// TestSyncRules holds RFC 6311, Section 5.1, for the peer of a cluster.
func TestSyncRules(t *testing.T) {
	replay := &wire.Notify{Kind: wire.NotifyIPsecReplayCounterSync, Data: make([]byte, 8)}
	tests := []struct {
		name   string
		m1, p1 int // beyond what a expects and will use next
		more   []wire.Payload
		want   bool
		p2     int
	}{
		{"equal", 0, 0, nil, true, 0},
		{"the member sends later ones", 5, 0, nil, true, 0},
		{"the member expects later ones", 0, 7, nil, true, 7},
		{"the member expects older ones", 1, -1, nil, true, 0},
		{"an ID that was used", -1, 0, nil, false, 0},
		{"with something else", 5, 0, []wire.Payload{&wire.Notify{Kind: wire.NotifyInitialContact}}, false, 0},
		{"with a synchronisation that was not announced", 5, 0, []wire.Payload{replay}, false, 0},
		{"with a Delete", 5, 0, []wire.Payload{&wire.Delete{Protocol: wire.ProtocolIKE}}, false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := syncPair(t)
			sa := w.a.t.primary()
			expects, next := sa.window.nextReceive, sa.window.nextSend
			m := takeOver(w.b, 2)
			request := m.request(t, uint32(int(expects)+test.m1), uint32(int(next)+test.p1), test.more...)
			d := Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: request}
			w.a.receive(d)
			if got := len(w.flight) == 1; got != test.want {
				t.Fatalf("%d answers, answered should be %v", len(w.flight), test.want)
			}
			if !test.want {
				if sa.window.nextReceive != expects || sa.window.nextSend != next {
					t.Errorf("message IDs changed to %d and %d", sa.window.nextReceive, sa.window.nextSend)
				}
				return
			}
			m2, p2 := m.take(t, w.take(0))
			if m2 != uint32(int(expects)+test.m1) || p2 != uint32(int(next)+test.p2) {
				t.Errorf("M2 %d, P2 %d, want %d and %d", m2, p2, int(expects)+test.m1, int(next)+test.p2)
			}
			// The same request again is answered from the cache; nothing else that
			// is not newer is.
			w.a.receive(d)
			if len(w.flight) != 1 {
				t.Fatalf("%d answers to a repeated request, want 1", len(w.flight))
			}
			w.flight = nil
			for _, old := range [][]byte{m.request(t, m2, p2), m.request(t, m2-1, p2+3), m.request(t, 0, 0)} {
				w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: old})
			}
			if len(w.flight) != 0 || sa.window.nextReceive != m2 {
				t.Errorf("an old synchronisation was heard: %d answers", len(w.flight))
			}
			// Both directions work again, and a second failover as well.
			w.a.step(RekeyChild{})
			w.settle()
			w.b.step(RekeyChild{})
			w.settle()
			again := takeOver(w.b, 1)
			w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: again.request(t, sa.window.nextReceive+3, 0)})
			again.take(t, w.take(0))
			w.b.step(RekeyIKE{})
			w.settle()
			w.check(t)
		})
	}
}

// TestSyncInterrupts: an exchange that is under way when the peer fails over is not
// waited for; what it was for is done later.
func TestSyncInterrupts(t *testing.T) {
	for name, request := range map[string]Input{"Child SA": RekeyChild{}, "IKE SA": RekeyIKE{}} {
		t.Run(name, func(t *testing.T) {
			w := syncPair(t)
			w.a.step(request)
			w.flight = nil // the active member dies with it
			sa := w.a.t.primary()
			used := sa.window.nextSend
			m := takeOver(w.b, 1)
			w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: m.request(t, sa.window.nextReceive+1, 1)})
			if _, p2 := m.take(t, w.take(0)); p2 != used {
				t.Errorf("P2 is %d, want %d: that of the lost request is not used again", p2, used)
			}
			if sa.window.outstanding != nil || sa.active != nil {
				t.Error("the lost exchange is still waited for")
			}
			before := w.a.state()
			w.advance(40*time.Second, w.settle)
			if w.a.state() == before {
				t.Error("what was interrupted is not done later")
			}
			w.check(t)
		})
	}
}

// TestSyncOfNobody: without the announcement of both ends, a synchronisation is a
// request with a wrong message ID (RFC 6311, Section 5).
func TestSyncOfNobody(t *testing.T) {
	w := syncPair(t)
	sa := w.a.t.primary()
	sa.syncs = false
	m := takeOver(w.b, 0)
	w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: m.request(t, sa.window.nextReceive+1, 0)})
	if len(w.flight) != 0 || w.a.t.stats.WrongMessageID == 0 {
		t.Errorf("%d answers, %d wrong message IDs", len(w.flight), w.a.t.stats.WrongMessageID)
	}
}

// TestSyncFirst: a cluster that has sent nothing yet synchronises with message IDs
// that it has not used, 0 included.
func TestSyncFirst(t *testing.T) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	m := takeOver(w.b, 0)
	for _, want := range []uint32{0, 4} {
		w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: m.request(t, want, 2)})
		if m2, _ := m.take(t, w.take(0)); m2 != want {
			t.Errorf("M2 is %d, want %d", m2, want)
		}
	}
	w.b.step(RekeyIKE{})
	w.settle()
	w.check(t)
}
