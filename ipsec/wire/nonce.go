package wire

// Bounds of the nonce in octets (RFC 7296, Section 3.9).
const (
	MinNonceLen = 16
	MaxNonceLen = 256
)

// Nonce is the Nonce payload: Ni or Nr.
type Nonce struct {
	Data []byte
}

// PayloadType implements Payload.
func (*Nonce) PayloadType() PayloadType { return PayloadNonce }

func (p *Nonce) check() error {
	if n := len(p.Data); n < MinNonceLen || n > MaxNonceLen {
		return invalidf("nonce of %d octets, want %d to %d", n, MinNonceLen, MaxNonceLen)
	}
	return nil
}

func (p *Nonce) size() int { return len(p.Data) }

func (p *Nonce) appendTo(b []byte) []byte { return append(b, p.Data...) }
