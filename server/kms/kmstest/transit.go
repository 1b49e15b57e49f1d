// Package kmstest has a server that answers as the transit engine of HashiCorp Vault and
// OpenBao does, for tests: their API's paths, tokens, versions of keys, and refusals.
package kmstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/swanherd/swanherd/server/kms"
)

// Transit is such a server, with one key.
type Transit struct {
	t      testing.TB
	server *httptest.Server
	dir    string

	mu       sync.Mutex
	token    string
	versions [][]byte // of the key
	oldest   int      // version that still decrypts
	sealed   bool
	calls    int
}

// Start starts a server, which ends with the test.
func Start(t testing.TB) *Transit {
	t.Helper()
	s := &Transit{t: t, dir: t.TempDir(), oldest: 1}
	s.server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	s.write("ca.pem", ca)
	s.SetToken("s.first")
	s.Rotate()
	return s
}

func (s *Transit) write(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Config is that of a client which may use the key.
func (s *Transit) Config() kms.VaultConfig {
	return kms.VaultConfig{Address: s.server.URL, TokenFile: filepath.Join(s.dir, "token"), CAFile: filepath.Join(s.dir, "ca.pem")}
}

// Wrapper is such a client.
func (s *Transit) Wrapper() *kms.Vault {
	s.t.Helper()
	v, err := kms.NewVault(s.Config())
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// SetToken makes another token the only good one, and puts it into the client's file.
func (s *Transit) SetToken(token string) {
	s.Revoke(token)
	s.write("token", []byte(token+"\n"))
}

// Revoke makes another token the only good one, which the client does not get.
func (s *Transit) Revoke(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// Rotate makes a new version of the key.
func (s *Transit) Rotate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := make([]byte, 32)
	rand.Read(key)
	s.versions = append(s.versions, key)
}

// Retire has nothing but the newest version decrypt (min_decryption_version).
func (s *Transit) Retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = len(s.versions)
}

// Seal seals the server, or unseals it.
func (s *Transit) Seal(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = sealed
}

// Calls is how many requests there were.
func (s *Transit) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *Transit) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	refuse := func(code int, errors ...string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": errors})
	}
	var in struct{ Plaintext, Ciphertext string }
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in)
	switch {
	case s.sealed:
		refuse(http.StatusServiceUnavailable, "Vault is sealed")
	case r.Header.Get("X-Vault-Token") != s.token:
		refuse(http.StatusForbidden, "permission denied")
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		refuse(http.StatusMethodNotAllowed)
	case err != nil:
		refuse(http.StatusBadRequest, "error parsing JSON")
	case r.URL.Path == "/v1/transit/encrypt/swanherd":
		if _, err := base64.StdEncoding.DecodeString(in.Plaintext); err != nil || in.Plaintext == "" {
			refuse(http.StatusBadRequest, "failed to base64-decode plaintext")
			return
		}
		s.answer(w, map[string]any{"ciphertext": s.encrypt(in.Plaintext), "key_version": len(s.versions)})
	case r.URL.Path == "/v1/transit/decrypt/swanherd":
		plaintext, err := s.decrypt(in.Ciphertext)
		if err != nil {
			refuse(http.StatusBadRequest, err.Error())
			return
		}
		s.answer(w, map[string]any{"plaintext": plaintext})
	case strings.HasPrefix(r.URL.Path, "/v1/transit/"):
		refuse(http.StatusBadRequest, "encryption key not found")
	default:
		refuse(http.StatusNotFound, fmt.Sprintf("no handler for route %q", strings.TrimPrefix(r.URL.Path, "/v1/")))
	}
}

func (s *Transit) answer(w http.ResponseWriter, data map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(map[string]any{"request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data}); err != nil {
		s.t.Log(err)
	}
}

func (s *Transit) aead(version int) cipher.AEAD {
	block, err := aes.NewCipher(s.versions[version-1])
	if err != nil {
		panic(err) // of 32 octets
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (s *Transit) encrypt(plaintext string) string {
	version := len(s.versions)
	return fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(s.aead(version).Seal(nil, nil, []byte(plaintext), nil)))
}

func (s *Transit) decrypt(ciphertext string) (string, error) {
	number, encoded, ok := strings.Cut(strings.TrimPrefix(ciphertext, "vault:v"), ":")
	version, err := strconv.Atoi(number)
	if !ok || err != nil || version < 1 || version > len(s.versions) {
		return "", fmt.Errorf("invalid ciphertext: no prefix")
	}
	if version < s.oldest {
		return "", fmt.Errorf("ciphertext or signature version is disallowed by policy (too old)")
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("invalid ciphertext: could not decode base64")
	}
	plaintext, err := s.aead(version).Open(nil, nil, b, nil)
	if err != nil {
		return "", fmt.Errorf("cipher: message authentication failed")
	}
	return string(plaintext), nil
}
