package store

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
)

func loadSealer(t *testing.T, path string) *Sealer {
	t.Helper()
	s, err := LoadSealer(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	s := loadSealer(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %v, %v; want 0600", info.Mode(), err)
	}
	secret := []byte("the key of an authority")
	sealed := s.Seal("/a", secret)
	if bytes.Contains(sealed.GetCiphertext(), secret) {
		t.Error("the secret is in clear")
	}
	if got, err := loadSealer(t, path).Open("/a", sealed); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Open = %q, %v", got, err)
	}
	if _, err := s.Open("/b", sealed); err == nil {
		t.Error("a secret opened under another etcd key")
	}
	for i := range sealed.GetCiphertext() {
		altered := proto.CloneOf(sealed)
		altered.Ciphertext[i] ^= 1
		if _, err := s.Open("/a", altered); err == nil {
			t.Fatalf("octet %d altered, and it opened", i)
		}
	}
	short := proto.CloneOf(sealed)
	short.Nonce = short.GetNonce()[1:]
	if _, err := s.Open("/a", short); err == nil {
		t.Error("a nonce of another size was taken")
	}
}

// A new key before the old one seals; the old one still opens.
func TestKeyReplacement(t *testing.T) {
	dir := t.TempDir()
	before := filepath.Join(dir, "before")
	sealed := loadSealer(t, before).Seal("/a", []byte("x"))
	fresh := filepath.Join(dir, "fresh")
	loadSealer(t, fresh)
	old, _ := os.ReadFile(before)
	first, _ := os.ReadFile(fresh)
	both := filepath.Join(dir, "both")
	if err := os.WriteFile(both, append(first, old...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := loadSealer(t, both)
	if _, err := s.Open("/a", sealed); err != nil {
		t.Error(err)
	}
	if _, err := loadSealer(t, fresh).Open("/a", s.Seal("/a", []byte("y"))); err != nil {
		t.Errorf("it is not the first key that seals: %v", err)
	}
	if _, err := loadSealer(t, fresh).Open("/a", sealed); err == nil || !strings.Contains(err.Error(), "not in the key file") {
		t.Errorf("without the old key: %v", err)
	}
}

func TestBadKeyFile(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "short": "AAAA\n", "no base64": "!!!\n"} {
		path := filepath.Join(t.TempDir(), "secret.key")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSealer(path); err == nil {
			t.Errorf("%s: the key file was taken", name)
		} else if name != "empty" && strings.Contains(err.Error(), strings.TrimSpace(content)) {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

// Controllers that start at the same time have one key.
func TestKeyFileIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	ids := make([]string, 8)
	var starting sync.WaitGroup
	for i := range ids {
		starting.Go(func() {
			s, err := LoadSealer(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = s.active
		})
	}
	starting.Wait()
	if ids[0] == "" || len(slices.Compact(ids)) != 1 {
		t.Errorf("keys are %v", ids)
	}
}
