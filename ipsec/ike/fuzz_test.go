package ike

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// fixedPair returns two ends with an IKE SA and a Child SA that were not
// negotiated, with fixed keys: it takes microseconds.
func fixedPair(t testing.TB) *world {
	w := pair(1, func(a, b *Config) { a.Role, b.Role = RoleResponder, RoleResponder })
	ikeSuite := suite.IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, PRF: w.a.t.cfg.Proposals[0].PRF[0], KeyExchange: wire.KeyExchangeCurve25519}
	espSuite := suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128}
	ni, nr, shared := fixedNonce(1), fixedNonce(2), bytes.Repeat([]byte{3}, 32)
	spii, spir := w.a.newSPI(), w.b.newSPI()
	inA, _ := w.a.allocate(0)
	inB, _ := w.b.allocate(0)
	for _, n := range w.nodes() {
		n.step(Connect{})
		sa := &ikeSA{
			initiator: n == w.a, localSPI: spii, remoteSPI: spir, path: path{route: route{local: n.cfg.Local, remote: n.cfg.Remote}},
			protection: protection{suite: ikeSuite, fragment: true}, parties: parties{localID: n.cfg.Credentials.ID, remoteID: n.cfg.Peer.ID},
			rivalry: rivalry{lowestNonce: ni}, init: &initState{},
		}
		in, out := inA, inB
		if n == w.b {
			sa.localSPI, sa.remoteSPI, in, out = spir, spii, inB, inA
		}
		keys, err := suite.DeriveIKEKeys(ikeSuite, ni, nr, shared, spii, spir)
		if err != nil {
			t.Fatal(err)
		}
		child, err := suite.DeriveChildKeys(ikeSuite, keys.D, nil, ni, nr, espSuite)
		if err != nil {
			t.Fatal(err)
		}
		n.t.add(sa)
		if err := sa.useKeys(keys); err != nil {
			t.Fatal(err)
		}
		n.t.establish(sa)
		sa.init = nil
		cfg := &n.t.cfg.Children[0]
		n.t.install(sa, childSpec{
			cfg: cfg, inbound: in, outbound: out, suite: espSuite, mode: dataplane.Tunnel,
			localTS: cfg.LocalTS, remoteTS: cfg.RemoteTS, initiator: sa.initiator, lowestNonce: ni, keys: child,
		}, true, func(*childSA, error) {})
		n.drain(n.t, nil)
	}
	return w
}

// FuzzOpen gives an end messages of its peer's making under fixed keys, whole and
// in fragments, in order and not, and some without the keys. Nothing panics or
// grows, and what has no keys changes nothing.
//
// Each message is four octets and what they announce: how it is protected, the
// exchange, the type of its first payload, the number of octets.
func FuzzOpen(f *testing.F) {
	message := func(kind byte, exchange wire.ExchangeType, payloads ...wire.Payload) []byte {
		first, plain, err := wire.AppendPayloads(nil, payloads)
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{kind, byte(exchange), byte(first), byte(len(plain))}, plain...)
	}
	probe := message(openSealed, wire.ExchangeInformational)
	deletion := message(openSealed, wire.ExchangeInformational, &wire.Delete{Protocol: wire.ProtocolESP, SPIs: [][]byte{put32(0x6201)}})
	f.Add(probe)
	f.Add(append(bytes.Clone(deletion), probe...))
	f.Add(message(openSealed, wire.ExchangeInformational, &wire.Delete{Protocol: wire.ProtocolIKE}))
	f.Add(message(openSealed, wire.ExchangeCreateChildSA,
		&wire.Notify{Protocol: wire.ProtocolESP, SPI: put32(0x6201), Kind: wire.NotifyRekeySA},
		&wire.SA{Proposals: suite.OfferESP(mustESP("aes128gcm16-esn"), put32(0x6202))}, &wire.Nonce{Data: fixedNonce(4)}))
	f.Add(message(openFragments, wire.ExchangeInformational, &wire.Notify{Kind: wire.NotifyInitialContact, Data: make([]byte, 100)}))
	f.Add(message(openRaw, wire.ExchangeInformational, &wire.Notify{Kind: wire.NotifyInvalidIKESPI}))
	f.Add(message(openAnswer, wire.ExchangeInformational))
	f.Fuzz(func(t *testing.T, script []byte) {
		w := fixedPair(t)
		w.a.t.primary().wantProbe = true // so that there is a request to answer
		w.a.step(Tick{})
		for range 20 {
			if len(script) < 4 {
				break
			}
			head, n := script[:4], min(int(script[3]), len(script)-4)
			w.open(t, head, script[4:4+n])
			script = script[4+n:]
		}
	})
}

const (
	openRaw = iota
	openGarbage
	openSealed
	openAnswer
	openFragments
	openKinds
)

// open has a receive one message that b protects, or not.
func (w *world) open(t *testing.T, head, body []byte) {
	if len(w.a.t.sas) == 0 || w.a.t.sas[0].sealer == nil {
		return // it was ended
	}
	sa := w.a.t.sas[0]
	kind, first := head[0]%openKinds, wire.PayloadType(head[2])
	h := wire.Header{
		InitiatorSPI: sa.localSPI, ResponderSPI: sa.remoteSPI, Major: 2,
		Exchange: wire.ExchangeType(head[1]), MessageID: sa.window.nextReceive,
	}
	if o := sa.window.outstanding; kind == openAnswer && o != nil {
		h.MessageID, h.Flags = o.id, wire.FlagResponse
	}
	before := w.a.state()
	for _, d := range w.datagrams(t, kind, h, first, body) {
		w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: d})
	}
	if after := w.a.state(); kind <= openGarbage && after != before {
		t.Fatalf("a message without keys changes\n%s\nto\n%s", before, after)
	}
	w.flight = nil
	if w.broken != nil && w.broken.name != "I2 peer receives" { // b does not hear of it
		t.Fatal(w.broken)
	}
	w.broken = nil
}

// datagrams protects one message.
func (w *world) datagrams(t *testing.T, kind byte, h wire.Header, first wire.PayloadType, body []byte) [][]byte {
	peer := w.b.t.sas[0]
	var out [][]byte
	add := func(b []byte, err error) {
		if err == nil {
			out = append(out, b)
		}
	}
	switch kind {
	case openRaw:
		b := binary.BigEndian.AppendUint64(nil, h.InitiatorSPI.Uint64())
		b = binary.BigEndian.AppendUint64(b, h.ResponderSPI.Uint64())
		b = append(b, byte(first), 0x20, byte(h.Exchange), byte(h.Flags))
		b = binary.BigEndian.AppendUint32(b, h.MessageID)
		add(append(binary.BigEndian.AppendUint32(b, uint32(28+len(body))), body...), nil)
	case openGarbage:
		b, err := h.AppendEncrypted(nil, first, len(body))
		add(append(b, body...), err)
	case openFragments:
		pieces := bytes.SplitAfterN(body, []byte{0}, 8)
		for i := range pieces { // the last one first
			n := len(pieces) - i
			b, err := h.AppendEncryptedFragment(nil, first, uint16(n), uint16(len(pieces)), peer.sealer.SealedLen(len(pieces[n-1])))
			if err == nil {
				b = peer.sealer.Seal(b, b, pieces[n-1])
			}
			add(b, err)
		}
	default:
		b, err := h.AppendEncrypted(nil, first, peer.sealer.SealedLen(len(body)))
		if err == nil {
			b = peer.sealer.Seal(b, b, body)
		}
		add(b, err)
	}
	return out
}

// FuzzSchedule is a simulator that is driven by octets instead of a seed: what
// is delivered, lost, repeated, reordered or spoilt, what happens to the ends and
// how much time goes by. The invariants hold after every step, and when the
// network is good again the ends agree.
func FuzzSchedule(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{1, 8, 0, 8, 1, 0, 0, 0, 1, 7, 4})           // both rekey the Child SA
	f.Add([]byte{3, 9, 0, 9, 1, 0, 1, 1, 0, 1, 0, 7, 5})     // both rekey the IKE SA, something is lost
	f.Add([]byte{2, 8, 0, 11, 1, 0, 0, 0, 1, 0, 1, 7, 6})    // rekeying against deletion
	f.Add([]byte{5, 9, 0, 12, 1, 13, 1, 7, 3, 6, 0, 7, 8})   // rekeying against a restart
	f.Add([]byte{4, 14, 1, 8, 1, 0, 1, 0, 0, 3, 0, 5, 0, 7}) // the data plane fails
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := schedule(data)
		if _, failure := play(lines, true, nil); failure != "" {
			t.Fatal(writeStory(t, "schedule", fmt.Sprintf("Found by FuzzSchedule: %s.", failure), lines, nil))
		}
	})
}

// schedule turns octets into the commands of a story.
func schedule(data []byte) []string {
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b)
	}
	lines := []string{pairs[next()%len(pairs)], "connect a"}
	for len(data) > 0 && len(lines) < 120 {
		op := ops[next()%len(ops)]
		words := strings.Fields(op)
		for i, word := range words {
			if choices, ok := arguments[word]; ok {
				words[i] = choices[next()%len(choices)]
			}
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return append(lines, "fail a n=0", "fail b n=0", "connect a", "connect b", "calm 2m", "check")
}

const quick = " rekey-ike=90s rekey-child=40s overtime=30s dpd=5s retransmit=500ms backoff=1.6 reconnect-max=10s half-open=10s"

var pairs = []string{
	"pair esp=aes128gcm16 up=yes" + quick,
	"pair up=yes" + quick,
	"pair esp=aes128gcm16 up=yes children=second" + quick,
	"pair esp=aes128gcm16 up=yes role=either" + quick,
	"pair esp=aes128gcm16 up=yes work=later" + quick,
	"pair esp=aes128gcm16 role=either qcd=yes" + quick,
	"pair esp=aes128gcm16 selectors=45" + quick,
	"pair esp=aes128gcm16 b.childless=force takeover=5s" + quick,
}

var ops = []string{
	"deliver DIR AT", "deliver DIR AT", "deliver DIR AT", "work NODE", "drop DIR AT", "dup DIR AT", "settle", "wait TIME",
	"rekey NODE", "rekey-ike NODE", "event NODE EXPIRE child=net", "delete NODE child=net", "restart NODE", "connect NODE",
	"fail NODE N", "mutate DIR AT OFF XOR", "disconnect NODE", "jump NODE JUMP", "send NODE", "nat NAT",
}

var arguments = map[string][]string{
	"NODE":   {"a", "b"},
	"DIR":    {"a>b", "b>a"},
	"AT":     {"at=0", "at=1", "at=2", "at=3"},
	"TIME":   {"10ms", "100ms", "500ms", "1s", "2s", "5s", "10s", "30s", "60s"},
	"EXPIRE": {"soft-expire", "hard-expire", "acquire"},
	"N":      {"n=1", "n=2", "n=3 policies=1", "n=0"},
	"OFF":    {"off=0", "off=8", "off=17", "off=18", "off=19", "off=23", "off=30", "off=40", "off=99"},
	"XOR":    {"xor=01", "xor=08", "xor=20", "xor=ff"},
	"JUMP":   {"30s", "-30s", "5m", "-5m"},
	"NAT":    {"a 203.0.113.7:20000", "a 203.0.113.7:30000"},
}
