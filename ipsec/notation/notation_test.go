package notation

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

var (
	request  = wire.Header{Exchange: wire.ExchangeCreateChildSA, Flags: wire.FlagInitiator, MessageID: 3}
	response = wire.Header{Exchange: wire.ExchangeInformational, Flags: wire.FlagResponse, MessageID: 4}
)

func octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xab
	}
	return b
}

func rekey() []wire.Payload {
	selectors := []wire.TrafficSelector{
		{
			Kind: wire.TSIPv4Range, IPProtocol: 6, StartPort: 443, EndPort: 443,
			First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255"),
		},
		{Kind: wire.TSSecurityLabel, Opaque: "label"},
	}
	transforms := []wire.Transform{
		{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionAESGCM16), KeyLength: 256},
		{Type: wire.TransformSequenceNumbers, ID: uint16(wire.SequenceNumbersExtended)},
	}
	return []wire.Payload{
		&wire.Notify{Protocol: wire.ProtocolESP, SPI: []byte{0xc0, 0, 0, 1}, Kind: wire.NotifyRekeySA},
		&wire.SA{Proposals: []wire.Proposal{
			{Number: 1, Protocol: wire.ProtocolESP, SPI: []byte{0xc0, 0, 0, 2}, Transforms: transforms},
			{Number: 2, Protocol: wire.ProtocolAH},
		}},
		&wire.Nonce{Data: octets(32)},
		&wire.KE{Group: wire.KeyExchangeCurve25519, Data: octets(32)},
		&wire.TS{Initiator: true, Selectors: selectors},
		&wire.TS{Selectors: selectors[:1]},
	}
}

func others() []wire.Payload {
	return []wire.Payload{
		&wire.Delete{Protocol: wire.ProtocolIKE},
		&wire.Delete{Protocol: wire.ProtocolESP, SPIs: [][]byte{{0, 0, 3, 4}, {5, 6, 7, 8}}},
		&wire.ID{Initiator: true, Kind: wire.IDFQDN, Data: []byte("edge1.example\x1b")},
		&wire.ID{Kind: wire.IDIPv4, Data: []byte{192, 0, 2, 1}},
		&wire.Cert{Encoding: wire.CertX509Signature, Data: octets(600)},
		&wire.CertReq{Encoding: wire.CertX509Signature, Data: octets(20)},
		&wire.Auth{Method: wire.AuthDigitalSignature, Data: octets(72)},
		&wire.Nonce{Data: octets(32)},
		&wire.KE{Group: wire.KeyExchangeECP256, Data: octets(64)},
		&wire.Notify{Kind: wire.NotifyCookie, Data: octets(24)},
		&wire.Notify{Kind: wire.NotifyInvalidKEPayload, Data: []byte{0, 19}},
		&wire.Notify{Kind: wire.NotifyUnsupportedCriticalPayload, Data: []byte{200}},
		&wire.VendorID{Data: octets(2)},
		&wire.CP{Kind: wire.CPReply, Attributes: []wire.CPAttribute{{Kind: wire.CPInternalIP4Address, Value: octets(4)}}},
		&wire.EAP{Data: octets(4)},
		&wire.Unknown{Kind: 200, Critical: true, Data: octets(5)},
		&wire.Unknown{Kind: wire.PayloadGSPM},
	}
}

func TestMessage(t *testing.T) {
	for _, c := range []struct {
		h              wire.Header
		payloads       []wire.Payload
		want, detailed string
	}{
		{
			request, rekey(), "CREATE_CHILD_SA req 3 {N(REKEY_SA) SA Ni KEi TSi TSr}",
			"CREATE_CHILD_SA req 3 {N(REKEY_SA c0000001) SA(ESP c0000002 aes256gcm16-esn, AH AH without transforms) Ni KEi(CURVE25519) " +
				"TSi(10.1.0.0/16[tcp/443] TS_SECLABEL(5)) TSr(10.1.0.0/16[tcp/443])}",
		},
		{
			response, others(), "INFORMATIONAL resp 4 {D D(304 5060708) IDi IDr CERT CERTREQ AUTH Nr KEr N(COOKIE) N(INVALID_KE_PAYLOAD) " +
				"N(UNSUPPORTED_CRITICAL_PAYLOAD) V CP(CFG_REPLY) EAP PayloadType(200)! GSPM}",
			`INFORMATIONAL resp 4 {D D(304 5060708) IDi("edge1.example\x1b") IDr(ID_IPV4_ADDR c0000201) CERT(X509) CERTREQ(X509) ` +
				`AUTH(DIGITAL_SIGNATURE) Nr KEr(ECP_256) N(COOKIE) N(INVALID_KE_PAYLOAD ECP_256) N(UNSUPPORTED_CRITICAL_PAYLOAD PayloadType(200)) ` +
				`V CP(CFG_REPLY INTERNAL_IP4_ADDRESS) EAP PayloadType(200)! GSPM}`,
		},
		{response, nil, "INFORMATIONAL resp 4 {}", "INFORMATIONAL resp 4 {}"},
		{
			request, []wire.Payload{&wire.Encrypted{Body: octets(92)}},
			"CREATE_CHILD_SA req 3 {SK(92)}", "CREATE_CHILD_SA req 3 {SK(92)}",
		},
		{
			request, []wire.Payload{&wire.EncryptedFragment{Number: 2, Total: 3, Body: octets(500)}},
			"CREATE_CHILD_SA req 3 {SKF(2/3 500)}", "CREATE_CHILD_SA req 3 {SKF(2/3 500)}",
		},
	} {
		if got := Message(c.h, c.payloads); got != c.want {
			t.Errorf("Message\n got %s\nwant %s", got, c.want)
		}
		if got := Detailed(c.h, c.payloads); got != c.detailed {
			t.Errorf("Detailed\n got %s\nwant %s", got, c.detailed)
		}
	}
}
