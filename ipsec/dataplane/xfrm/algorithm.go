package xfrm

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// ciphers are the kernel's names of ciphers. Combined-mode ones take the salt as
// the end of their key, and so does AES-CTR, as our key material has it.
var ciphers = map[wire.EncryptionID]string{
	wire.EncryptionAESGCM8:          "rfc4106(gcm(aes))",
	wire.EncryptionAESGCM12:         "rfc4106(gcm(aes))",
	wire.EncryptionAESGCM16:         "rfc4106(gcm(aes))",
	wire.EncryptionAESCCM8:          "rfc4309(ccm(aes))",
	wire.EncryptionAESCCM12:         "rfc4309(ccm(aes))",
	wire.EncryptionAESCCM16:         "rfc4309(ccm(aes))",
	wire.EncryptionChaCha20Poly1305: "rfc7539esp(chacha20,poly1305)",
	wire.EncryptionNullAESGMAC:      "rfc4543(gcm(aes))",
	wire.EncryptionAESCBC:           "cbc(aes)",
	wire.EncryptionAESCTR:           "rfc3686(ctr(aes))",
	wire.EncryptionNull:             "ecb(cipher_null)",
}

// integrities are the kernel's names of integrity algorithms.
var integrities = map[wire.IntegrityID]string{
	wire.IntegrityHMACSHA1:   "hmac(sha1)",
	wire.IntegrityHMACSHA256: "hmac(sha256)",
	wire.IntegrityHMACSHA384: "hmac(sha384)",
	wire.IntegrityHMACSHA512: "hmac(sha512)",
	wire.IntegrityAESXCBC:    "xcbc(aes)",
}

// algorithmNames returns what the kernel calls the algorithms of a suite; one that
// the suite does not have is "".
func algorithmNames(s suite.ESPSuite) (cipher, integrity string, err error) {
	if !s.AH {
		if cipher = ciphers[s.Encryption]; cipher == "" {
			return "", "", fmt.Errorf("the kernel has no name for the cipher of %s: choose AES-GCM", s)
		}
	}
	if s.AH || !s.AEAD() {
		if integrity = integrities[s.Integrity]; integrity == "" {
			return "", "", fmt.Errorf("the kernel has no name for the integrity algorithm of %s: choose HMAC-SHA2", s)
		}
	}
	return cipher, integrity, nil
}
