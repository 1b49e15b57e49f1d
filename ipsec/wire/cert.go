package wire

// CertEncoding is the format of a certificate or a certificate request.
type CertEncoding uint8

// Certificate encodings (IANA IKEv2 Certificate Encodings).
const (
	CertPKCS7            CertEncoding = 1
	CertX509Signature    CertEncoding = 4 // DER-encoded X.509 certificate
	CertCRL              CertEncoding = 7
	CertARL              CertEncoding = 8 // authority revocation list
	CertHashAndURL       CertEncoding = 12
	CertHashAndURLBundle CertEncoding = 13
	CertOCSPContent      CertEncoding = 14 // RFC 4806
	CertRawPublicKey     CertEncoding = 15 // RFC 7670
)

var certEncodingNames = map[CertEncoding]string{
	CertPKCS7: "PKCS7", CertX509Signature: "X509", CertCRL: "CRL", CertARL: "ARL", CertHashAndURL: "HASH_AND_URL",
	CertHashAndURLBundle: "HASH_AND_URL_BUNDLE", CertOCSPContent: "OCSP", CertRawPublicKey: "RAW_PUBLIC_KEY",
}

func (e CertEncoding) String() string { return nameOf(certEncodingNames, e, "CertEncoding") }

// Cert is the Certificate payload. The first one of a message holds the key
// that the AUTH payload is verified with (RFC 7296, Section 3.6).
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// PayloadType implements Payload.
func (*Cert) PayloadType() PayloadType { return PayloadCert }

func parseCert(r *reader) *Cert {
	return &Cert{Encoding: CertEncoding(r.u8()), Data: r.rest()}
}

func (p *Cert) check() error {
	if len(p.Data) == 0 {
		return invalid("no certificate data")
	}
	return nil
}

func (p *Cert) size() int { return 1 + len(p.Data) }

func (p *Cert) appendTo(b []byte) []byte {
	return append(append(b, uint8(p.Encoding)), p.Data...)
}
