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
	"sync"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

// A Sealer encrypts secrets before they are stored, with AES-256-GCM (NIST SP
// 800-38D) and keys from a file that is not in the store, or that a key management
// service unwraps. The etcd key of the record is additional data: a ciphertext moved to
// another record does not open. With random nonces one key is good for 2^32 secrets.
type Sealer struct {
	mu     sync.RWMutex
	active string             // guarded by mu; id of the key that seals
	keys   map[string]sealKey // guarded by mu
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
	return parseKeys(path, b)
}

// OldKeys returns a sealer of the keys in a file, as LoadSealer does, of none when there
// is no file: a key ring seals with others.
func OldKeys(path string) (*Sealer, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Sealer{keys: map[string]sealKey{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer clear(b)
	return parseKeys(path, b)
}

func parseKeys(path string, b []byte) (*Sealer, error) {
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

// keyID is how a key is called in what it sealed.
func keyID(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func (s *Sealer) add(key []byte) (id string, err error) {
	id = keyID(key)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = sealKey{aead, mac}
	return id, nil
}

// sealing returns the key that seals.
func (s *Sealer) sealing() (id string, key sealKey) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.active, s.keys[s.active]
}

func (s *Sealer) key(id string) (sealKey, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	key, ok := s.keys[id]
	return key, ok
}

// Active is the id of the key that seals.
func (s *Sealer) Active() string {
	id, _ := s.sealing()
	return id
}

// Authenticate returns the HMAC-SHA-256 of a message and the id of the key that it is
// under.
func (s *Sealer) Authenticate(message []byte) (keyID string, mac []byte) {
	id, key := s.sealing()
	return id, key.authenticate(message)
}

// Authentic says whether mac is what Authenticate made of the message under that key.
func (s *Sealer) Authentic(keyID string, message, mac []byte) error {
	key, ok := s.key(keyID)
	if !ok {
		return fmt.Errorf("key %q is not in the key file, nor among those of the store; add that key to the file", keyID)
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
	id, key := s.sealing()
	nonce := make([]byte, key.aead.NonceSize())
	rand.Read(nonce)
	return &storev1.SealedSecret{
		KeyId:      id,
		Nonce:      nonce,
		Ciphertext: key.aead.Seal(nil, nonce, secret, []byte(etcdKey)),
	}
}

// Open decrypts what Seal made for the same etcd key.
func (s *Sealer) Open(etcdKey string, sealed *storev1.SealedSecret) ([]byte, error) {
	key, ok := s.key(sealed.GetKeyId())
	if !ok {
		return nil, fmt.Errorf("secret of %s is sealed with key %q, which is not in the key file, nor among those of the store; add that key to the file", etcdKey, sealed.GetKeyId())
	}
	aead := key.aead
	if len(sealed.GetNonce()) != aead.NonceSize() {
		return nil, fmt.Errorf("secret of %s: nonce has %d octets, not %d", etcdKey, len(sealed.GetNonce()), aead.NonceSize())
	}
	secret, err := aead.Open(nil, sealed.GetNonce(), sealed.GetCiphertext(), []byte(etcdKey))
	if err != nil {
		return nil, fmt.Errorf("secret of %s was altered, or moved from another record", etcdKey)
	}
	return secret, nil
}
