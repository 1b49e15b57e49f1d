package esp

import (
	"crypto/cipher"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// newAEAD stands in for that of the file of this name in ipsec/esp when the data
// plane is measured without a cipher. It protects nothing.
func newAEAD(s suite.ESPSuite, _ []byte) (cipher.AEAD, nonce, error) {
	return clearText{icv: s.ICVLen()}, nonce{}, nil
}

// clearText moves a payload as a cipher does, behind the header when it is sealed and
// in its place when it is opened, and leaves it as it is.
type clearText struct{ icv int }

func (c clearText) NonceSize() int { return maxSaltLen + aeadIVLen }

func (c clearText) Overhead() int { return c.icv }

func (c clearText) Seal(dst, _, plaintext, _ []byte) []byte {
	dst = append(dst, plaintext...)
	return append(dst, make([]byte, c.icv)...)
}

func (c clearText) Open(_, _, ciphertext, _ []byte) ([]byte, error) {
	return ciphertext[:len(ciphertext)-c.icv], nil
}
