package state

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpenRefusesSharedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir)
	if err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Fatalf("Open = %v, want an error with the remedy", err)
	}
}

func TestOpenLocks(t *testing.T) {
	d := open(t)
	_, err := Open(d.Path())
	if err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("second Open = %v, want in use", err)
	}
	d.Close()
	again, err := Open(d.Path())
	if err != nil {
		t.Fatalf("Open after Close: %v", err)
	}
	again.Close()
}

func testIntent() *Intent {
	return &Intent{Epoch: "e1", SourceRevision: 42, Resources: digest.NewSet([]*swanherdv1.IntentResource{
		digest.Resource(&swanherdv1.EdgeSettings{Edge: "networks/n/edges/a"}),
		digest.Resource(&swanherdv1.TunnelIntent{Name: "networks/n/tunnels/a--b"}),
	})}
}

func TestIntentRoundTrip(t *testing.T) {
	d := open(t)
	if i, err := d.LoadIntent(); i != nil || err != nil {
		t.Fatalf("LoadIntent of an empty directory = %v, %v", i, err)
	}
	want := testIntent()
	if err := d.SaveIntent(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.LoadIntent()
	if err != nil {
		t.Fatal(err)
	}
	if got.Epoch != "e1" || got.SourceRevision != 42 || !bytes.Equal(got.Digest(), want.Digest()) {
		t.Errorf("LoadIntent = %+v", got)
	}
	if e := got.EdgeIntent(); e.GetSettings().GetEdge() != "networks/n/edges/a" || len(e.GetTunnels()) != 1 {
		t.Errorf("EdgeIntent = %v", e)
	}
	info, err := os.Stat(d.intentPath())
	if err != nil || info.Mode().Perm() != fileMode {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
}

// Every broken file is set aside, reported once, and leaves a clean start.
func TestIntentCorrupt(t *testing.T) {
	d := open(t)
	if err := d.SaveIntent(testIntent()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(d.intentPath())
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-3] ^= 1
	for name, b := range map[string][]byte{
		"empty": {}, "text": []byte("tunnels: []\n"), "cut": good[:len(good)-1], "flipped bit": flipped,
		"header only": []byte(intentHeader),
	} {
		if err := os.WriteFile(d.intentPath(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.LoadIntent()
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Errorf("%s: LoadIntent = %v, want *CorruptError", name, err)
			continue
		}
		if aside, _ := os.ReadFile(corrupt.Aside); !bytes.Equal(aside, b) {
			t.Errorf("%s: the broken file was not kept", name)
		}
		if i, err := d.LoadIntent(); i != nil || err != nil {
			t.Errorf("%s: second LoadIntent = %v, %v, want a clean start", name, i, err)
		}
	}
}

func selfSigned(t *testing.T, public, private any) []*x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, private)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{c}
}

func identityFor(t *testing.T, k *Keys) *Identity {
	t.Helper()
	control := selfSigned(t, k.Control.Public(), k.Control)
	ike := selfSigned(t, k.IKE.Public(), k.IKE)
	return &Identity{
		Keys: *k, Edge: "networks/n/edges/a", SessionEndpoints: []string{"c:7444"},
		RenewTime: time.Now().Truncate(time.Second).UTC(), ControlChain: control, IKEChain: ike,
		ControllerRoots: control, NetworkRoots: ike,
	}
}

func TestEngineMemory(t *testing.T) {
	d := open(t)
	m := d.EngineMemory()
	if b, err := m.Load(); b != nil || err != nil {
		t.Errorf("Load of nothing = %q, %v", b, err)
	}
	for _, want := range []string{"first", "second, and longer"} {
		if err := m.Save([]byte(want)); err != nil {
			t.Fatal(err)
		}
		if b, err := m.Load(); string(b) != want || err != nil {
			t.Errorf("Load = %q, %v, want %q", b, err, want)
		}
	}
	info, err := os.Stat(filepath.Join(d.Path(), "engine.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: it holds secrets", info.Mode(), err)
	}
	if err := os.Chmod(filepath.Join(d.Path(), "engine.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Load(); err == nil {
		t.Error("a memory that others may read is used")
	}
}

func TestIdentityLife(t *testing.T) {
	d := open(t)
	if _, err := d.LoadIdentity(); !errors.Is(err, ErrNotEnrolled) {
		t.Fatalf("LoadIdentity = %v, want ErrNotEnrolled", err)
	}
	for range 2 { // enrolment, then a renewal
		first, err := d.CandidateKeys()
		if err != nil {
			t.Fatal(err)
		}
		second, err := d.CandidateKeys()
		if err != nil {
			t.Fatal(err)
		}
		if !samePublic(first.Control, second.Control.Public()) || !first.IKE.Equal(second.IKE) {
			t.Fatal("a retry got other keys")
		}
		want := identityFor(t, first)
		if err := d.Promote(want); err != nil {
			t.Fatal(err)
		}
		got, err := d.LoadIdentity()
		if err != nil {
			t.Fatal(err)
		}
		if !samePublic(got.Control, first.Control.Public()) || got.Edge != want.Edge || !got.RenewTime.Equal(want.RenewTime) {
			t.Errorf("LoadIdentity = %+v", got)
		}
		if _, err := os.Stat(d.candidatePath()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("candidate still there: %v", err)
		}
	}
	checkModes(t, d.Path())
}

func checkModes(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPromoteRefusesForeignKeys(t *testing.T) {
	d := open(t)
	if _, err := d.CandidateKeys(); err != nil {
		t.Fatal(err)
	}
	other, err := open(t).CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Promote(identityFor(t, other)); err == nil {
		t.Error("Promote took an identity for other keys")
	}
}

func TestBrokenCandidateIsReplaced(t *testing.T) {
	d := open(t)
	if _, err := d.CandidateKeys(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.candidatePath(), "ike.key"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CandidateKeys(); err != nil {
		t.Errorf("CandidateKeys with a broken file: %v", err)
	}
}

func TestReadSecretRefusesWorldReadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "psk")
	if err := os.WriteFile(path, []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("ReadSecret = %v, want an error with the remedy", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadSecret(path); err != nil || string(b) != "s3cret" {
		t.Errorf("ReadSecret = %q, %v", b, err)
	}
}
