package wire

import "encoding/binary"

// PayloadType is the number of a payload in the Next Payload field.
type PayloadType uint8

// Payload types (IANA IKEv2 Payload Types).
const (
	PayloadNone     PayloadType = 0 // no next payload
	PayloadSA       PayloadType = 33
	PayloadKE       PayloadType = 34
	PayloadIDi      PayloadType = 35
	PayloadIDr      PayloadType = 36
	PayloadCert     PayloadType = 37
	PayloadCertReq  PayloadType = 38
	PayloadAuth     PayloadType = 39
	PayloadNonce    PayloadType = 40
	PayloadNotify   PayloadType = 41
	PayloadDelete   PayloadType = 42
	PayloadVendorID PayloadType = 43
	PayloadTSi      PayloadType = 44
	PayloadTSr      PayloadType = 45
	PayloadSK       PayloadType = 46
	PayloadCP       PayloadType = 47
	PayloadEAP      PayloadType = 48
	PayloadGSPM     PayloadType = 49 // RFC 6467; not supported
	PayloadIDg      PayloadType = 50 // group key management; not supported
	PayloadGSA      PayloadType = 51 // group key management; not supported
	PayloadKD       PayloadType = 52 // group key management; not supported
	PayloadSKF      PayloadType = 53 // RFC 7383
)

// payloadNames are the notations of RFC 7296, Section 3.2. Nonce is printed
// as Ni or Nr by those who know the direction.
var payloadNames = map[PayloadType]string{
	PayloadNone: "none", PayloadSA: "SA", PayloadKE: "KE", PayloadIDi: "IDi", PayloadIDr: "IDr",
	PayloadCert: "CERT", PayloadCertReq: "CERTREQ", PayloadAuth: "AUTH", PayloadNonce: "Nonce",
	PayloadNotify: "N", PayloadDelete: "D", PayloadVendorID: "V", PayloadTSi: "TSi", PayloadTSr: "TSr",
	PayloadSK: "SK", PayloadCP: "CP", PayloadEAP: "EAP", PayloadGSPM: "GSPM", PayloadIDg: "IDg",
	PayloadGSA: "GSA", PayloadKD: "KD", PayloadSKF: "SKF",
}

func (t PayloadType) String() string { return nameOf(payloadNames, t, "PayloadType") }

// Payload is one payload of a message. Its implementations are the pointer
// types of this package.
type Payload interface {
	// PayloadType is the type number that announces this payload.
	PayloadType() PayloadType

	// size is the length of the body: the payload less its generic header.
	size() int
	// appendTo writes the body.
	appendTo(b []byte) []byte
	// check holds the rules on the content; parsing and appending call it.
	check() error
}

// genericHeaderLen is the length of the generic payload header.
const genericHeaderLen = 4

// criticalBit is the only defined flag of the generic payload header.
const criticalBit = 0x80

// appendGenericHeader writes the header of RFC 7296, Section 3.2, for a body
// of n octets.
func appendGenericHeader(b []byte, next PayloadType, critical bool, n int) []byte {
	var flags uint8
	if critical {
		flags = criticalBit
	}
	b = append(b, uint8(next), flags)
	return binary.BigEndian.AppendUint16(b, uint16(genericHeaderLen+n))
}

// parseBody reads the body of one payload. next is the Next Payload field of
// its generic header, which the Encrypted payloads use for their content.
func parseBody(t, next PayloadType, critical bool, r *reader) (Payload, error) {
	p := decode(t, next, critical, r)
	if err := r.end(); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, &UnsupportedCriticalError{Payload: t}
	}
	return p, nil
}

// decode dispatches by type; nil means an unknown payload marked critical.
func decode(t, next PayloadType, critical bool, r *reader) Payload {
	switch t {
	case PayloadSA:
		return parseSA(r)
	case PayloadKE:
		return parseKE(r)
	case PayloadIDi, PayloadIDr:
		return parseID(r, t == PayloadIDi)
	case PayloadCert:
		return parseCert(r)
	case PayloadCertReq:
		return parseCertReq(r)
	case PayloadAuth:
		return parseAuth(r)
	case PayloadNonce:
		return &Nonce{Data: r.rest()}
	case PayloadNotify:
		return parseNotify(r)
	case PayloadDelete:
		return parseDelete(r)
	case PayloadVendorID:
		return &VendorID{Data: r.rest()}
	case PayloadTSi, PayloadTSr:
		return parseTS(r, t == PayloadTSi)
	case PayloadSK:
		return &Encrypted{FirstInner: next, Body: r.rest()}
	case PayloadSKF:
		return parseEncryptedFragment(r, next)
	case PayloadCP:
		return parseCP(r)
	case PayloadEAP:
		return &EAP{Data: r.rest()}
	}
	// The critical bit counts only for types that are not understood
	// (RFC 7296, Section 3.2).
	data := r.rest()
	if critical {
		return nil
	}
	return &Unknown{Kind: t, Data: data}
}
