package wire

import (
	"net/netip"
	"runtime"
	"testing"
)

// ikeAuthMessage has the payloads of an IKE_AUTH request with one certificate
// as they are inside the Encrypted payload.
func ikeAuthMessage() *Message {
	selectors := []TrafficSelector{{
		Kind: TSIPv4Range, EndPort: 65535,
		First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255"),
	}}
	return &Message{
		Header: Header{
			InitiatorSPI: SPI{1, 2, 3, 4, 5, 6, 7, 8}, ResponderSPI: SPI{9}, Major: 2,
			Exchange: ExchangeIKEAuth, Flags: FlagInitiator, MessageID: 1,
		},
		Payloads: []Payload{
			&ID{Initiator: true, Kind: IDFQDN, Data: []byte("edge1.sites.example")},
			&Cert{Encoding: CertX509Signature, Data: make([]byte, 620)},
			&Notify{Kind: NotifyInitialContact},
			&CertReq{Encoding: CertX509Signature, Data: count(20)},
			&Auth{Method: AuthDigitalSignature, Data: make([]byte, 72)},
			&SA{Proposals: []Proposal{{Number: 1, Protocol: ProtocolESP, SPI: count(4), Transforms: []Transform{
				{Type: TransformEncryption, ID: uint16(EncryptionAESGCM16), KeyLength: 256},
				{Type: TransformEncryption, ID: uint16(EncryptionAESGCM16), KeyLength: 128},
				{Type: TransformSequenceNumbers, ID: uint16(SequenceNumbersExtended)},
			}}}},
			&TS{Initiator: true, Selectors: selectors},
			&TS{Selectors: selectors},
		},
	}
}

var benchMessages = []struct {
	name string
	m    *Message
}{{"IKE_SA_INIT", saInitMessage()}, {"IKE_AUTH", ikeAuthMessage()}}

func BenchmarkParse(b *testing.B) {
	for _, bench := range benchMessages {
		raw, err := bench.m.Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := Parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, bench := range benchMessages {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(bench.m.size()))
			buf := make([]byte, 0, bench.m.size())
			for b.Loop() {
				if _, err := bench.m.Append(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Appending to a buffer that is large enough allocates nothing.
func TestAppendAllocates(t *testing.T) {
	for _, bench := range benchMessages {
		buf := make([]byte, 0, bench.m.size())
		if n := testing.AllocsPerRun(100, func() { bench.m.Append(buf) }); n > 0 {
			t.Errorf("%s: %.0f allocations", bench.name, n)
		}
	}
}

// The memory that a hostile message costs is bounded by its own length,
// whatever counts and lengths it claims.
func TestParseMemory(t *testing.T) {
	repeat := func(head, unit string, n int) []byte {
		b := dump(t, head).octets
		for range n {
			b = append(b, dump(t, unit).octets...)
		}
		return b
	}
	var proposals []byte
	for i := range 255 {
		mark := byte(moreProposals)
		if i == 254 {
			mark = 0
		}
		proposals = append(proposals, mark, 0, 0, 16, byte(i+1), 1, 0, 1, 0, 0, 0, 8, 2, 0, 0, 5)
	}
	transforms := repeat("000007f8 010100fe", "03000008 02000005", 253)
	transforms = append(transforms, dump(t, "00000008 02000005").octets...)
	attributes := repeat("0000fff4 01010001 0000ffec 0100000c", "800f0001", 16377)
	for name, c := range map[string]struct {
		kind PayloadType
		body []byte
		ok   bool
	}{
		"proposals":         {PayloadSA, proposals, true},
		"transforms":        {PayloadSA, transforms, true},
		"attributes":        {PayloadSA, attributes, true},
		"claimed transform": {PayloadSA, dump(t, "00000010 010100ff 03000008 02000005").octets, false},
		"selectors":         {PayloadTSi, repeat("ff000000", "0a000004", 255), true},
		"claimed selectors": {PayloadTSi, repeat("ff000000", "0a000004", 1), false},
		"SPIs":              {PayloadDelete, repeat("03040400", "00000001", 1024), true},
		"claimed SPIs":      {PayloadDelete, repeat("03040400", "00000001", 1), false},
		"attributes of CP":  {PayloadCP, repeat("01000000", "00010000", 255), true},
		"too many of CP":    {PayloadCP, repeat("01000000", "00010000", 16000), false},
	} {
		b := append(appendGenericHeader(nil, PayloadNone, false, len(c.body)), c.body...)
		var err error
		used := allocated(func() { _, err = ParsePayloads(c.kind, b) })
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v, want success %t", name, err, c.ok)
		}
		if most := uint64(32*len(b) + 4096); used > most {
			t.Errorf("%s: %d octets of input allocate %d, want at most %d", name, len(b), used, most)
		}
	}
}

// allocated returns the octets that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
