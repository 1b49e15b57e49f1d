package wire

import "encoding/binary"

// KE is the Key Exchange payload (RFC 7296, Section 3.4).
type KE struct {
	Group KeyExchangeID
	Data  []byte // public value; its length is for the key exchange to judge
}

// PayloadType implements Payload.
func (*KE) PayloadType() PayloadType { return PayloadKE }

func parseKE(r *reader) *KE {
	p := &KE{Group: KeyExchangeID(r.u16())}
	r.skip(2) // RESERVED
	p.Data = r.rest()
	return p
}

func (p *KE) check() error {
	if len(p.Data) == 0 {
		return invalid("no key exchange data")
	}
	return nil
}

func (p *KE) size() int { return 4 + len(p.Data) }

func (p *KE) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(p.Group))
	b = append(b, 0, 0)
	return append(b, p.Data...)
}
