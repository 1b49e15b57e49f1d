package wire

// CertReq is the Certificate Request payload (RFC 7296, Section 3.7). For
// X.509 encodings Data is a list of SHA-1 hashes, 20 octets each, of the
// public keys of trusted authorities; an empty list names none in particular.
type CertReq struct {
	Encoding CertEncoding
	Data     []byte
}

// PayloadType implements Payload.
func (*CertReq) PayloadType() PayloadType { return PayloadCertReq }

func parseCertReq(r *reader) *CertReq {
	return &CertReq{Encoding: CertEncoding(r.u8()), Data: r.rest()}
}

// check demands nothing: a request that is not understood is ignored.
func (p *CertReq) check() error { return nil }

func (p *CertReq) size() int { return 1 + len(p.Data) }

func (p *CertReq) appendTo(b []byte) []byte {
	return append(append(b, uint8(p.Encoding)), p.Data...)
}
