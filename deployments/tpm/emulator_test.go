//go:build tpm

package tpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/swanherd/swanherd/edge/tpm"
)

// maker is an authority that certifies endorsement keys.
type maker struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{}
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker of TPMs"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, m.key.Public(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	if m.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *maker) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})
}

// certify makes a certificate of an endorsement key in the form of the EK Credential Profile.
func (m *maker) certify(t testing.TB, ek any) []byte {
	t.Helper()
	about, err := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:49424D00"}}, {{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "swtpm"}}})
	if err != nil {
		t.Fatal(err)
	}
	name, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: about}})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:    []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: name}},
	}, m.cert, ek, m.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// emulator is a swtpm.
type emulator struct {
	*tpm.TPM
	socket string
	dev    transport.TPM
}

// start starts a swtpm, which a maker has certified if there is one, its RSA key if rsa.
func start(t testing.TB, by *maker, rsa bool) *emulator {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skipf("SKIPPED: needs swtpm (%v); `go run ./deployments/dev setup` installs it", err)
	}
	dir, err := os.MkdirTemp("", "tpm-") // the path of a socket may have 107 octets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &emulator{socket: filepath.Join(dir, "socket")}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+e.socket,
		"--flags", "not-need-init,startup-clear", "--seccomp", "action=none") // which the sandboxes of CI may not have
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "swtpm to answer", func() bool {
		e.TPM, err = tpm.Open(e.socket)
		return err == nil
	})
	if e.dev, err = linuxudstpm.Open(e.socket); err != nil {
		t.Fatal(err)
	}
	if by != nil {
		e.manufacture(t, by, rsa)
	}
	return e
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// manufacture puts the certificate of the endorsement key where manufacturers do, with octets
// behind it.
func (e *emulator) manufacture(t testing.TB, by *maker, rsa bool) {
	t.Helper()
	index, template := tpm2.TPMHandle(0x01C0000A), tpm2.ECCEKTemplate
	if rsa {
		index, template = 0x01C00002, tpm2.RSAEKTemplate
	}
	ek := e.primary(t, tpm2.TPMRHEndorsement, template)
	area, err := ek.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	data := append(by.certify(t, public), make([]byte, 100)...)
	e.flush(t, ek.ObjectHandle)
	_, err = tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, AuthWrite: true, OwnerRead: true, AuthRead: true, NT: tpm2.TPMNTOrdinary, NoDA: true},
	})}.Execute(e.dev)
	if err != nil {
		t.Fatal(err)
	}
	for offset := 0; offset < len(data); offset += 512 {
		r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(e.dev) // its name changes when it is written
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: r.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: r.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(offset+512, len(data))]}, Offset: uint16(offset),
		}.Execute(e.dev)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (e *emulator) primary(t testing.TB, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *tpm2.CreatePrimaryResponse {
	t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(e.dev)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (e *emulator) flush(t testing.TB, handle tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(e.dev); err != nil {
		t.Fatal(err)
	}
}
