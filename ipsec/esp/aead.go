package esp

import (
	"crypto/cipher"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// newAEAD makes the combined-mode cipher of s and the nonce it is used with: the
// salt, with room for the IV behind it.
func newAEAD(s suite.ESPSuite, key []byte) (cipher.AEAD, nonce, error) {
	var n nonce
	cipherKey, salt, _, err := s.SplitKey(key)
	if err != nil {
		return nil, n, err
	}
	aead, err := suite.NewAEAD(suite.Encryption{ID: s.Encryption, KeyBits: s.KeyBits}, cipherKey)
	n.skip = maxSaltLen - len(salt)
	copy(n.octets[n.skip:], salt)
	return aead, n, err
}
