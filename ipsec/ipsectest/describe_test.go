package ipsectest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/wire"
)

var (
	request = wire.Header{
		InitiatorSPI: wire.SPI{7: 1}, ResponderSPI: wire.SPI{7: 2}, Major: 2,
		Exchange: wire.ExchangeCreateChildSA, Flags: wire.FlagInitiator, MessageID: 3,
	}
	response = wire.Header{
		InitiatorSPI: wire.SPI{7: 1}, ResponderSPI: wire.SPI{7: 2}, Major: 2,
		Exchange: wire.ExchangeInformational, Flags: wire.FlagResponse, MessageID: 4,
	}
)

func rekey() []wire.Payload {
	all := []wire.TrafficSelector{
		{
			Kind: wire.TSIPv4Range, IPProtocol: 6, StartPort: 443, EndPort: 443,
			First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255"),
		},
		{Kind: wire.TSSecurityLabel, Opaque: "label"},
	}
	return []wire.Payload{
		&wire.Notify{Protocol: wire.ProtocolESP, SPI: []byte{0xc0, 0, 0, 1}, Kind: wire.NotifyRekeySA},
		&wire.SA{Proposals: []wire.Proposal{{Number: 1, Protocol: wire.ProtocolESP, SPI: []byte{0xc0, 0, 0, 2}, Transforms: []wire.Transform{
			{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionAESGCM16), KeyLength: 256},
			{Type: wire.TransformSequenceNumbers, ID: uint16(wire.SequenceNumbersExtended), Unsupported: "\x80\x01\x00\x01"},
		}}}},
		&wire.Nonce{Data: make([]byte, 32)},
		&wire.KE{Group: wire.KeyExchangeCurve25519, Data: make([]byte, 32)},
		&wire.TS{Initiator: true, Selectors: all},
		&wire.TS{Selectors: all[:1]},
	}
}

func others() []wire.Payload {
	return []wire.Payload{
		&wire.Delete{Protocol: wire.ProtocolIKE},
		&wire.Delete{Protocol: wire.ProtocolESP, SPIs: [][]byte{{1, 2, 3, 4}, {5, 6, 7, 8}}},
		&wire.ID{Initiator: true, Kind: wire.IDFQDN, Data: []byte("edge1.example")},
		&wire.ID{Kind: wire.IDIPv4, Data: []byte{192, 0, 2, 1}},
		&wire.Cert{Encoding: wire.CertX509Signature, Data: make([]byte, 600)},
		&wire.CertReq{Encoding: wire.CertX509Signature, Data: make([]byte, 20)},
		&wire.Auth{Method: wire.AuthDigitalSignature, Data: make([]byte, 72)},
		&wire.Nonce{Data: make([]byte, 32)},
		&wire.KE{Group: wire.KeyExchangeECP256, Data: make([]byte, 64)},
		&wire.Notify{Kind: wire.NotifyCookie, Data: make([]byte, 24)},
		&wire.VendorID{Data: []byte{0xab, 0xcd}},
		&wire.CP{Kind: wire.CPReply, Attributes: []wire.CPAttribute{{Kind: wire.CPInternalIP4Address, Value: make([]byte, 4)}}},
		&wire.EAP{Data: []byte{3, 1, 0, 4}},
		&wire.Unknown{Kind: 200, Critical: true, Data: make([]byte, 5)},
		&wire.Unknown{Kind: wire.PayloadGSPM},
	}
}

func TestDescribeMessage(t *testing.T) {
	m := wire.Message{Header: request, Payloads: rekey()}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := DescribeMessage(b), notation.Message(request, rekey()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := DescribeMessage(b[:30]), "malformed(30) parse IKE header"; !strings.HasPrefix(got, want) {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestDump(t *testing.T) {
	const want = `CREATE_CHILD_SA req 3, SPIs 0000000000000001 0000000000000002, flags I
  N(REKEY_SA) ESP SPI c0000001
  SA
    1 ESP SPI c0000002 ENCR_AES_GCM_16/256 ESN(unsupported attributes)
  Ni 32 octets
  KEi CURVE25519, 32 octets
  TSi 10.1.0.0/16[tcp/443] TS_SECLABEL(5)
  TSr 10.1.0.0/16[tcp/443]
`
	if got := Dump(request, rekey()); got != want {
		t.Errorf("Dump\n%s\nwant\n%s", got, want)
	}
	const wantOthers = `INFORMATIONAL resp 4, SPIs 0000000000000001 0000000000000002, flags R
  D
  D(1020304 5060708)
  IDi ID_FQDN "edge1.example"
  IDr ID_IPV4_ADDR c0000201
  CERT X509, 600 octets
  CERTREQ X509, 20 octets
  AUTH DIGITAL_SIGNATURE, 72 octets
  Nr 32 octets
  KEr ECP_256, 64 octets
  N(COOKIE) 24 octets
  V abcd
  CP(CFG_REPLY) INTERNAL_IP4_ADDRESS(4)
  EAP 4 octets
  PayloadType(200)! 5 octets
  GSPM 0 octets
`
	if got := Dump(response, others()); got != wantOthers {
		t.Errorf("Dump\n%s\nwant\n%s", got, wantOthers)
	}
}

func TestTranscript(t *testing.T) {
	var tr Transcript
	if tr.Take() != "" || tr.String() != "" {
		t.Error("an empty transcript has lines")
	}
	tr.Message("a", "b", request, rekey())
	tr.Note("b", "child %d %s", 1, "REKEYING")
	const first = "a->b CREATE_CHILD_SA req 3 {N(REKEY_SA) SA Ni KEi TSi TSr}\nb: child 1 REKEYING\n"
	if got := tr.Take(); got != first {
		t.Errorf("Take %q, want %q", got, first)
	}
	tr.Message("b", "a", response, nil)
	const second = "b->a INFORMATIONAL resp 4 {}\n"
	if got := tr.Take(); got != second {
		t.Errorf("Take %q, want %q", got, second)
	}
	if got := tr.String(); got != first+second {
		t.Errorf("String %q, want %q", got, first+second)
	}
}
