package suite

import (
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Bounds of the Nonce Data (RFC 7296, Section 3.9), octets.
const (
	minNonce = 16
	maxNonce = 256
)

// IKEKeys are the seven secrets of an IKE SA (RFC 7296, Section 2.14), named
// after their subscripts: D is SK_d, Ai is SK_ai and so on. Ai and Ar are
// empty for a combined-mode cipher; Ei and Er end with its salt.
type IKEKeys struct {
	D, Ai, Ar, Ei, Er, Pi, Pr []byte
}

// Destroy overwrites the secrets with zeros. Slices of them taken elsewhere
// become zero too.
func (k *IKEKeys) Destroy() {
	for _, b := range [][]byte{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr} {
		clear(b)
	}
	*k = IKEKeys{}
}

// ChildKeys is the keying material of a pair of ESP SAs (RFC 7296, Section
// 2.17). Each half is the encryption key with its salt, then the integrity
// key; ESPSuite.SplitKey cuts it. Initiator means the one of the exchange that
// made the Child SA, not of the IKE SA.
type ChildKeys struct {
	InitiatorToResponder, ResponderToInitiator []byte
}

// Destroy overwrites the keys with zeros.
func (k *ChildKeys) Destroy() {
	clear(k.InitiatorToResponder)
	clear(k.ResponderToInitiator)
	*k = ChildKeys{}
}

// DeriveIKEKeys makes the keys of an IKE SA from IKE_SA_INIT (RFC 7296,
// Section 2.14). shared is the result of the key exchange; ni and nr are the
// Nonce Data of initiator and responder.
func DeriveIKEKeys(s IKESuite, ni, nr, shared []byte, spii, spir wire.SPI) (*IKEKeys, error) {
	if err := checkKeyInputs(s, s.PRF, ni, nr); err != nil {
		return nil, err
	}
	if err := checkSecret(s.KeyExchange, shared); err != nil {
		return nil, err
	}
	seed := skeyseed(s.PRF, ni, nr, shared)
	defer clear(seed)
	return expandIKEKeys(s, seed, ni, nr, spii, spir), nil
}

// UpdateIKEKeys replaces the keys of an IKE SA in the making after the
// additional key exchange by method, whose result is shared (RFC 9370, Section
// 2.2.2). oldD is SK_d from before it; all else is that of IKE_SA_INIT.
func UpdateIKEKeys(s IKESuite, method wire.KeyExchangeID, oldD, ni, nr, shared []byte, spii, spir wire.SPI) (*IKEKeys, error) {
	if err := checkKeyInputs(s, s.PRF, ni, nr); err != nil {
		return nil, err
	}
	if err := checkSecret(method, shared); err != nil {
		return nil, err
	}
	if len(oldD) == 0 {
		return nil, errors.New("update IKE SA keys: SK_d is missing")
	}
	seed := rekeyedSkeyseed(s.PRF, oldD, [][]byte{shared}, ni, nr)
	defer clear(seed)
	return expandIKEKeys(s, seed, ni, nr, spii, spir), nil
}

// RekeyIKEKeys makes the keys of the IKE SA that replaces another (RFC 7296,
// Section 2.18). oldPRF and oldD (SK_d) belong to the IKE SA being replaced;
// suite, nonces and SPIs are those of the CREATE_CHILD_SA exchange. shared are
// the results of the key exchanges of s, in their order.
func RekeyIKEKeys(s IKESuite, oldPRF PRF, oldD, ni, nr []byte, shared [][]byte, spii, spir wire.SPI) (*IKEKeys, error) {
	if err := checkKeyInputs(s, oldPRF, ni, nr); err != nil {
		return nil, err
	}
	if err := checkSecrets(s.KeyExchanges(), shared); err != nil {
		return nil, err
	}
	if len(oldD) == 0 || oldPRF.Size() == 0 {
		return nil, errors.New("rekey IKE SA: SK_d or PRF of the old IKE SA is missing")
	}
	seed := rekeyedSkeyseed(oldPRF, oldD, shared, ni, nr)
	defer clear(seed)
	return expandIKEKeys(s, seed, ni, nr, spii, spir), nil
}

// DeriveChildKeys makes the keys of a Child SA (RFC 7296, Section 2.17; RFC
// 9370, Section 2.2.4). skD is SK_d of the IKE SA; shared are the results of
// the key exchanges of esp in their order, none if the exchange made no key
// exchange of its own.
func DeriveChildKeys(ike IKESuite, skD []byte, shared [][]byte, ni, nr []byte, esp ESPSuite) (*ChildKeys, error) {
	if err := ike.validate(); err != nil {
		return nil, err
	}
	if err := esp.Validate(); err != nil {
		return nil, err
	}
	if len(skD) == 0 {
		return nil, errors.New("derive Child SA keys: SK_d is missing")
	}
	if err := checkSecrets(esp.KeyExchanges(), shared); err != nil {
		return nil, err
	}
	if err := checkNonces(ike.PRF, ni, nr); err != nil {
		return nil, err
	}
	return expandChildKeys(ike.PRF, skD, shared, ni, nr, esp.KeyLen()), nil
}

// expandChildKeys cuts KEYMAT = prf+(SK_d, g^ir (new) | Ni | Nr), with several
// key exchanges prf+(SK_d, SK(0) | Ni | Nr | SK(1) | ... | SK(n)), into two
// keys of n octets.
func expandChildKeys(p PRF, skD []byte, shared [][]byte, ni, nr []byte, n int) *ChildKeys {
	seed := secretsAndNonces(shared, ni, nr)
	defer clear(seed)
	keymat := p.Plus(skD, seed, 2*n)
	return &ChildKeys{
		InitiatorToResponder: keymat[:n:n],
		ResponderToInitiator: keymat[n:],
	}
}

func checkKeyInputs(s IKESuite, prf PRF, ni, nr []byte) error {
	if err := s.validate(); err != nil {
		return err
	}
	return checkNonces(prf, ni, nr)
}

// checkSecret holds that shared can be the result of a key exchange by method.
func checkSecret(method wire.KeyExchangeID, shared []byte) error {
	if g, ok := groupOf(method); !ok || len(shared) != g.sharedLen {
		return fmt.Errorf("derive keys: shared secret of %s has %d octets, want %d", groupKeyword(method), len(shared), g.sharedLen)
	}
	return nil
}

func checkSecrets(methods []wire.KeyExchangeID, shared [][]byte) error {
	if len(methods) != len(shared) {
		return fmt.Errorf("derive keys: %d shared secrets for %d key exchanges", len(shared), len(methods))
	}
	for i, method := range methods {
		if err := checkSecret(method, shared[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkNonces holds RFC 7296, Section 2.10: nonces of at least 128 bits and at
// least half the key size of the PRF.
func checkNonces(prf PRF, ni, nr []byte) error {
	least := max(minNonce, prf.Size()/2)
	for _, n := range [][]byte{ni, nr} {
		if len(n) < least || len(n) > maxNonce {
			return fmt.Errorf("nonce of %d octets, want %d to %d with %s", len(n), least, maxNonce, prf)
		}
	}
	return nil
}

// skeyseed is SKEYSEED = prf(Ni | Nr, g^ir). Of the nonces AES-XCBC-PRF-128
// takes 64 bits each, here alone (RFC 7296, Section 2.14).
func skeyseed(p PRF, ni, nr, shared []byte) []byte {
	if p == PRFAES128XCBC {
		ni, nr = ni[:8], nr[:8]
	}
	return p.Sum(slices.Concat(ni, nr), shared)
}

// rekeyedSkeyseed is SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with
// several key exchanges prf(SK_d (old), SK(0) | Ni | Nr | SK(1) | ... SK(n))
// (RFC 9370, Section 2.2.4).
func rekeyedSkeyseed(old PRF, oldD []byte, shared [][]byte, ni, nr []byte) []byte {
	seed := secretsAndNonces(shared, ni, nr)
	defer clear(seed)
	return old.Sum(oldD, seed)
}

// secretsAndNonces is SK(0) | Ni | Nr | SK(1) | ... | SK(n) of RFC 9370, Section
// 2.2.4: the first shared secret goes before the nonces.
func secretsAndNonces(shared [][]byte, ni, nr []byte) []byte {
	if len(shared) == 0 {
		return slices.Concat(ni, nr)
	}
	return slices.Concat(append([][]byte{shared[0], ni, nr}, shared[1:]...)...)
}

// expandIKEKeys cuts {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} =
// prf+(SKEYSEED, Ni | Nr | SPIi | SPIr).
func expandIKEKeys(s IKESuite, seed, ni, nr []byte, spii, spir wire.SPI) *IKEKeys {
	p, a, e := s.PRF.Size(), s.IntegrityKeyLen(), s.EncryptionKeyLen()
	all := s.PRF.Plus(seed, slices.Concat(ni, nr, spii[:], spir[:]), 3*p+2*a+2*e)
	next := func(n int) []byte {
		b := all[:n:n]
		all = all[n:]
		return b
	}
	return &IKEKeys{D: next(p), Ai: next(a), Ar: next(a), Ei: next(e), Er: next(e), Pi: next(p), Pr: next(p)}
}

// ResumeIKEKeys makes the keys of an IKE SA that is resumed (RFC 5723, Section
// 5.1): SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr). The suite is that of
// the old one.
func ResumeIKEKeys(s IKESuite, oldD, ni, nr []byte, spii, spir wire.SPI) (*IKEKeys, error) {
	if err := checkKeyInputs(s, s.PRF, ni, nr); err != nil {
		return nil, err
	}
	if len(oldD) != s.PRF.Size() {
		return nil, fmt.Errorf("resume IKE SA: SK_d of %d octets, want %d", len(oldD), s.PRF.Size())
	}
	seed := s.PRF.Sum(oldD, []byte("Resumption"), ni, nr)
	defer clear(seed)
	return expandIKEKeys(s, seed, ni, nr, spii, spir), nil
}
