package attest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// challengeLife is how long a TPM has to answer.
const challengeLife = time.Minute

// challengeLabel tells what is authenticated here from whatever else is under that key.
const challengeLabel = "swanherd TPM challenge 1\n"

// expirySize is how many octets of a ticket say when it ends; the rest is the key's id.
const expirySize = 8

// Authenticator is a key that the replicas of the controller share.
type Authenticator interface {
	Authenticate(message []byte) (keyID string, mac []byte)
	Authentic(keyID string, message, mac []byte) error
}

var (
	// ErrExpired says that the answer came too late, and may be tried again.
	ErrExpired = errors.New("the TPM took longer than a minute to answer the challenge; try again")
	// ErrAnswer says that the answer is not that of the TPM, or of another challenge.
	ErrAnswer = errors.New("the answer to the challenge is not the TPM's that was shown, or not for this key and token")
)

// Challenge is what can be answered only by the TPM that has both the EK and the AK.
type Challenge struct {
	// Ticket comes back with the answer.
	Ticket []byte
	// Blob is a TPMS_ID_OBJECT, Seed a TPMU_ENCRYPTED_SECRET.
	Blob, Seed []byte
}

// Challenge makes one, about whatever the answer is to be good for and nothing else. It is
// kept nowhere: the secret in it is a MAC, which whoever has the key makes again.
func (e *Evidence) Challenge(key Authenticator, about []byte, now time.Time) (*Challenge, error) {
	expiry := binary.BigEndian.AppendUint64(nil, uint64(now.Add(challengeLife).Unix()))
	keyID, secret := key.Authenticate(e.message(expiry, about))
	blob, seed, err := e.conceal(secret)
	if err != nil {
		return nil, err
	}
	return &Challenge{Ticket: append(expiry, keyID...), Blob: blob, Seed: seed}, nil
}

// Answered is ErrAnswer or ErrExpired unless secret is what was in the challenge with that
// ticket, and the challenge was about the same evidence and the same thing.
func (e *Evidence) Answered(key Authenticator, about, ticket, secret []byte, now time.Time) error {
	if len(ticket) <= expirySize {
		return ErrAnswer
	}
	expiry := ticket[:expirySize]
	if key.Authentic(string(ticket[expirySize:]), e.message(expiry, about), secret) != nil {
		return ErrAnswer
	}
	if uint64(now.Unix()) > binary.BigEndian.Uint64(expiry) {
		return ErrExpired
	}
	return nil
}

// message is what the secret in a challenge is the MAC of.
func (e *Evidence) message(expiry, about []byte) []byte {
	ek, ak := sha256.Sum256(e.ek.raw), sha256.Sum256(e.akName)
	m := append([]byte(challengeLabel), expiry...)
	m = append(m, ek[:]...)
	m = append(m, ak[:]...)
	return append(m, about...)
}

// conceal encrypts a secret of at most 32 octets so that it can be read only by the TPM
// that has the EK, and only while it has the AK (TPM2_MakeCredential, Part 1, 24).
func (e *Evidence) conceal(secret []byte) (blob, seed []byte, err error) {
	// Each length in it was held to what is there by parsePublic.
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.ek.raw)
	if err != nil {
		return nil, nil, fmt.Errorf("decode endorsement key: %w", err)
	}
	key, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, nil, fmt.Errorf("use endorsement key: %w", err)
	}
	if blob, seed, err = tpm2.CreateCredential(rand.Reader, key, e.akName, secret); err != nil {
		return nil, nil, fmt.Errorf("encrypt for endorsement key: %w", err)
	}
	return blob, seed, nil
}
