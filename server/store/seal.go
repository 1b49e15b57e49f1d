package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

// A Sealer encrypts secrets before they are stored, with AES-256-GCM (NIST SP
// 800-38D) and keys from a file that is not in the store. The etcd key of the
// record is additional data: a ciphertext moved to another record does not open.
// With random nonces one key is good for 2^32 secrets.
type Sealer struct {
	active string // id of the key that seals
	keys   map[string]sealKey
}

type sealKey struct {
	aead cipher.AEAD
	// mac is derived from the key, for what is not secret but has to be ours.
	mac []byte
}

const sealKeySize = 32

// LoadSealer reads the key file, or makes it, with mode 0600, when there is
// none. Each line is a key of 32 octets in base64; the first one seals, the
// others still open what they sealed, so that a key is replaced by putting a
// new one before it.
func LoadSealer(path string) (*Sealer, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = createKeyFile(path); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer clear(b)
	s := &Sealer{keys: map[string]sealKey{}}
	for n, line := range strings.Fields(string(b)) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != sealKeySize {
			return nil, fmt.Errorf("key file %s: line %d is not the base64 form of %d octets", path, n+1, sealKeySize)
		}
		id, err := s.add(key)
		clear(key)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			s.active = id
		}
	}
	if s.active == "" {
		return nil, fmt.Errorf("key file %s holds no key; restore it, or remove it to start with a new store", path)
	}
	return s, nil
}

// createKeyFile makes the file in one step, so that who starts at the same time finds
// none or all of it, and returns what is in it then.
func createKeyFile(path string) ([]byte, error) {
	key := make([]byte, sealKeySize)
	rand.Read(key)
	defer clear(key)
	b := append([]byte(base64.StdEncoding.EncodeToString(key)), '\n')
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("create key file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("write key file %s: %w", path, err)
	}
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) { // another controller was faster
		clear(b)
		return os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("create key file: %w", err)
	}
	return b, nil
}

func (s *Sealer) add(key []byte) (id string, err error) {
	sum := sha256.Sum256(key)
	id = hex.EncodeToString(sum[:8])
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", fmt.Errorf("make cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return "", fmt.Errorf("make cipher: %w", err)
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "swanherd audit seal", sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a key: %w", err)
	}
	s.keys[id] = sealKey{aead, mac}
	return id, nil
}

// Authenticate returns the HMAC-SHA-256 of a message and the id of the key that it is
// under.
func (s *Sealer) Authenticate(message []byte) (keyID string, mac []byte) {
	return s.active, s.keys[s.active].authenticate(message)
}

// Authentic says whether mac is what Authenticate made of the message under that key.
func (s *Sealer) Authentic(keyID string, message, mac []byte) error {
	key, ok := s.keys[keyID]
	if !ok {
		return fmt.Errorf("key %q is not in the key file; add that key to the file", keyID)
	}
	if !hmac.Equal(mac, key.authenticate(message)) {
		return errors.New("it was not made by this controller")
	}
	return nil
}

func (k sealKey) authenticate(message []byte) []byte {
	h := hmac.New(sha256.New, k.mac)
	h.Write(message)
	return h.Sum(nil)
}

// Seal encrypts a secret that is stored under the given etcd key; see
// Collection.Key.
func (s *Sealer) Seal(etcdKey string, secret []byte) *storev1.SealedSecret {
	aead := s.keys[s.active].aead
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	return &storev1.SealedSecret{
		KeyId:      s.active,
		Nonce:      nonce,
		Ciphertext: aead.Seal(nil, nonce, secret, []byte(etcdKey)),
	}
}

// Open decrypts what Seal made for the same etcd key.
func (s *Sealer) Open(etcdKey string, sealed *storev1.SealedSecret) ([]byte, error) {
	key, ok := s.keys[sealed.GetKeyId()]
	aead := key.aead
	if !ok {
		return nil, fmt.Errorf("secret of %s is sealed with key %q, which is not in the key file; add that key to the file", etcdKey, sealed.GetKeyId())
	}
	if len(sealed.GetNonce()) != aead.NonceSize() {
		return nil, fmt.Errorf("secret of %s: nonce has %d octets, not %d", etcdKey, len(sealed.GetNonce()), aead.NonceSize())
	}
	secret, err := aead.Open(nil, sealed.GetNonce(), sealed.GetCiphertext(), []byte(etcdKey))
	if err != nil {
		return nil, fmt.Errorf("secret of %s was altered, or moved from another record", etcdKey)
	}
	return secret, nil
}
