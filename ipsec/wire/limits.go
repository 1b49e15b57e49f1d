package wire

// Our own limits, chosen well above what real peers send. They bound the work
// and the memory that one datagram can cost.
const (
	// MaxMessageLen is the largest IKE message in octets, header included. A
	// UDP datagram cannot carry more, and payload lengths are 16-bit fields.
	MaxMessageLen = 65535
	// MaxPayloads bounds the payloads of one chain.
	MaxPayloads = 64
	// MaxDeleteSPIs bounds the SPIs of one Delete payload.
	MaxDeleteSPIs = 1024
	// MaxCPAttributes bounds the attributes of one Configuration payload.
	MaxCPAttributes = 255

	maxPayloadLen = 65535 // 16-bit Payload Length, RFC 7296, Section 3.2
)

// payloadLimit returns how often a payload may occur in one chain. RFC 7296
// defines no message with two SA, KE, ID, AUTH, Nonce, TS, CP or EAP payloads
// of one type, so code behind the codec may look for the only one.
func payloadLimit(t PayloadType) int {
	switch t {
	case PayloadSA, PayloadKE, PayloadIDi, PayloadIDr, PayloadAuth, PayloadNonce,
		PayloadTSi, PayloadTSr, PayloadSK, PayloadSKF, PayloadCP, PayloadEAP:
		return 1
	case PayloadCert:
		return 8
	case PayloadCertReq, PayloadNotify, PayloadDelete, PayloadVendorID:
		return 20
	default:
		return MaxPayloads
	}
}
