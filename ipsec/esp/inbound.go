package esp

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// Packet is what an ESP packet carried.
type Packet struct {
	// Payload lies in the memory of the packet opened. In tunnel mode it may
	// be longer than its IP header says: the rest is padding against traffic
	// analysis (RFC 4303, Section 2.7).
	Payload []byte
	// NextHeader is the protocol of Payload; NextHeaderNone marks a dummy
	// packet to be discarded (RFC 4303, Section 2.6).
	NextHeader uint8
	// Sequence is the whole sequence number, also of an SA without ESN.
	Sequence uint64
}

// Inbound is the receiving side of an ESP SA.
type Inbound struct {
	spi    uint32
	esn    bool
	window window
	icvLen int

	aead  cipher.AEAD
	nonce nonce
	aad   [12]byte

	plain *plainCipher // instead of aead
}

// NewInbound makes the receiving side of an SA.
func NewInbound(c Config) (*Inbound, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("make inbound SA: %w", err)
	}
	size := c.ReplayWindow
	if size == 0 {
		size = DefaultReplayWindow
	}
	in := &Inbound{spi: c.SPI, esn: c.Suite.ESN, window: newWindow(size), icvLen: c.Suite.ICVLen()}
	if !c.Suite.AEAD() {
		plain, err := newPlain(c.Suite, c.Key, cipher.NewCBCDecrypter)
		if err != nil {
			return nil, fmt.Errorf("make inbound SA: %w", err)
		}
		in.plain = plain
		return in, nil
	}
	aead, nonce, err := newAEAD(c.Suite, c.Key)
	if err != nil {
		return nil, fmt.Errorf("make inbound SA: %w", err)
	}
	in.aead, in.nonce = aead, nonce
	return in, nil
}

// SPI returns the SPI of the SA.
func (in *Inbound) SPI() uint32 { return in.spi }

// Highest returns the highest sequence number that was authenticated.
func (in *Inbound) Highest() uint64 { return in.window.top }

// Missing returns how many sequence numbers were passed over and have not come:
// the loss on the path. The latest 64 are not in it, and a late packet is taken
// off again.
func (in *Inbound) Missing() uint64 { return in.window.missing }

// Open checks the ESP packet b, from the SPI to the ICV, and decrypts it in
// place. The caller found the SA by the SPI in b. The order is that of RFC 4303,
// Section 3.4: sequence number, integrity, and only then does the window move.
// On any error b holds nothing of use.
//
// Errors: ErrMalformed, ErrReplayed, ErrAuthentication.
func (in *Inbound) Open(b []byte) (Packet, error) {
	if len(b) < headerLen {
		return Packet{}, ErrMalformed
	}
	seq := uint64(binary.BigEndian.Uint32(b[4:]))
	if in.esn {
		var ok bool
		if seq, ok = in.window.extend(uint32(seq)); !ok {
			return Packet{}, ErrReplayed
		}
	}
	if !in.window.fresh(seq) {
		return Packet{}, ErrReplayed
	}
	plain, err := in.decrypt(b, seq)
	if err != nil {
		return Packet{}, err
	}
	in.window.accept(seq)
	return parseTrailer(plain, seq)
}

func (in *Inbound) decrypt(b []byte, seq uint64) ([]byte, error) {
	if in.plain != nil {
		return in.decryptPlain(b, seq)
	}
	if len(b) < headerLen+aeadIVLen+2+in.icvLen {
		return nil, ErrMalformed
	}
	*in.nonce.iv() = [aeadIVLen]byte(b[headerLen:])
	aad := in.aad[:additional(&in.aad, in.spi, seq, in.esn)]
	body := b[headerLen+aeadIVLen:]
	plain, err := in.aead.Open(body[:0], in.nonce.bytes(), body, aad)
	if err != nil {
		return nil, ErrAuthentication
	}
	return plain, nil
}

func (in *Inbound) decryptPlain(b []byte, seq uint64) ([]byte, error) {
	body := headerLen + in.plain.ivLen
	end := len(b) - in.icvLen
	if end < body+2 || (end-body)%in.plain.block != 0 {
		return nil, ErrMalformed
	}
	if subtle.ConstantTimeCompare(in.plain.icv(b[:end], seq, in.esn), b[end:]) != 1 {
		return nil, ErrAuthentication
	}
	in.plain.mode.crypt(b[body:end], b[body:end], b[headerLen:body])
	return b[body:end], nil
}

// parseTrailer takes padding, pad length and next header off the plaintext. The
// padding must count up from 1 (RFC 4303, Section 2.4).
func parseTrailer(plain []byte, seq uint64) (Packet, error) {
	n := len(plain) - 2
	pad := int(plain[n])
	if pad > n {
		return Packet{}, ErrMalformed
	}
	for i, v := range plain[n-pad : n] {
		if int(v) != i+1 {
			return Packet{}, ErrMalformed
		}
	}
	return Packet{Payload: plain[:n-pad], NextHeader: plain[n+1], Sequence: seq}, nil
}

// SetHighestForTest moves the window as if seq had arrived.
func (in *Inbound) SetHighestForTest(seq uint64) { in.window.accept(seq) }
