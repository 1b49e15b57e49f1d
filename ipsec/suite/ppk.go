package suite

import (
	"errors"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// MixPPK runs SK_d, SK_pi and SK_pr through prf+ with a post-quantum preshared
// key (RFC 8784, Section 3). It returns what these three were, for Restore or to
// be destroyed.
func (k *IKEKeys) MixPPK(p PRF, ppk []byte) *IKEKeys {
	before := &IKEKeys{D: k.D, Pi: k.Pi, Pr: k.Pr}
	k.D, k.Pi, k.Pr = p.Plus(ppk, before.D, len(before.D)), p.Plus(ppk, before.Pi, len(before.Pi)), p.Plus(ppk, before.Pr, len(before.Pr))
	return before
}

// Restore takes MixPPK back, because the peer does not have the key.
func (k *IKEKeys) Restore(before *IKEKeys) {
	clear(k.D)
	clear(k.Pi)
	clear(k.Pr)
	k.D, k.Pi, k.Pr = before.D, before.Pi, before.Pr
	*before = IKEKeys{}
}

// PPKIKEKeys replaces all keys of an IKE SA in the making by mixing in a
// post-quantum preshared key (RFC 9867): SKEYSEED' = prf+(PPK, SK_d), and the keys
// from that as from SKEYSEED.
func PPKIKEKeys(s IKESuite, ppk, oldD, ni, nr []byte, spii, spir wire.SPI) (*IKEKeys, error) {
	if err := checkKeyInputs(s, s.PRF, ni, nr); err != nil {
		return nil, err
	}
	if len(ppk) == 0 || len(oldD) == 0 {
		return nil, errors.New("mix PPK into IKE SA keys: PPK or SK_d is missing")
	}
	seed := s.PRF.Plus(ppk, oldD, s.PRF.Size())
	defer clear(seed)
	return expandIKEKeys(s, seed, ni, nr, spii, spir), nil
}

// PPKConfirmationLen is the length of a PPK Confirmation, octets.
const PPKConfirmationLen = 8

// PPKConfirmation proves the knowledge of a post-quantum preshared key before
// the peer is authenticated (RFC 9867): the first 8 octets of prf(PPK, Ni | Nr |
// SPIi | SPIr).
func PPKConfirmation(p PRF, ppk, ni, nr []byte, spii, spir wire.SPI) []byte {
	return slices.Clip(p.Sum(ppk, ni, nr, spii[:], spir[:])[:PPKConfirmationLen])
}
