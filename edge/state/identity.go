package state

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotEnrolled is returned by LoadIdentity when the edge has no identity yet.
var ErrNotEnrolled = errors.New("this edge is not enrolled; run: swanherd-edge enroll --token TOKEN")

// Keys are an edge's two private keys. They never leave the machine.
type Keys struct {
	Control crypto.Signer      // ECDSA on P-256, perhaps in a TPM: TLS to the controller
	IKE     ed25519.PrivateKey // IKE authentication (RFC 8420)
}

// Identity is all that proves who an edge is, and whom it trusts.
type Identity struct {
	Keys
	// Edge is the resource name, `networks/{network}/edges/{edge}`.
	Edge string
	// SessionEndpoints are the controller's `host:port`, best first.
	SessionEndpoints []string
	// RenewTime is when the certificates are to be replaced.
	RenewTime time.Time
	// ControlChain and IKEChain begin with the edge's own certificate.
	ControlChain, IKEChain []*x509.Certificate
	// ControllerRoots are trusted on the control channel, NetworkRoots for IKE
	// peers.
	ControllerRoots, NetworkRoots []*x509.Certificate
}

// TLSCertificate is the identity's control certificate for a TLS client.
func (i *Identity) TLSCertificate() tls.Certificate {
	c := tls.Certificate{PrivateKey: i.Control, Leaf: i.ControlChain[0]}
	for _, x := range i.ControlChain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// edgeFile is edge.json.
type edgeFile struct {
	Edge             string    `json:"edge"`
	SessionEndpoints []string  `json:"session_endpoints"`
	RenewTime        time.Time `json:"renew_time"`
}

func (d *Dir) identityPath() string  { return filepath.Join(d.path, "identity") }
func (d *Dir) candidatePath() string { return filepath.Join(d.path, "identity.next") }

// LoadIdentity returns the identity in use, or ErrNotEnrolled.
func (d *Dir) LoadIdentity() (*Identity, error) {
	id, err := d.readIdentity(d.identityPath())
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(d.identityPath()); errors.Is(serr, fs.ErrNotExist) {
			return nil, ErrNotEnrolled
		}
	}
	if errors.As(err, new(tpmError)) {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load identity: %w; if the files cannot be restored, move %s away and enroll again", err, d.identityPath())
	}
	return id, nil
}

func (d *Dir) readIdentity(dir string) (*Identity, error) {
	keys, err := d.readKeys(dir)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "edge.json"))
	if err != nil {
		return nil, err
	}
	var e edgeFile
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("parse %s: %w", filepath.Join(dir, "edge.json"), err)
	}
	id := &Identity{Keys: *keys, Edge: e.Edge, SessionEndpoints: e.SessionEndpoints, RenewTime: e.RenewTime}
	for name, to := range id.certificateFiles() {
		if *to, err = ReadCertificates(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return id, id.Check()
}

// certificateFiles maps the names of the certificate files to what they hold.
func (i *Identity) certificateFiles() map[string]*[]*x509.Certificate {
	return map[string]*[]*x509.Certificate{
		"control.crt":       &i.ControlChain,
		"ike.crt":           &i.IKEChain,
		controllerRootsFile: &i.ControllerRoots,
		"network-roots.crt": &i.NetworkRoots,
	}
}

// Check tells whether the parts of the identity fit together: each certificate
// is for its key, and nothing is missing.
func (i *Identity) Check() error {
	switch {
	case i.Edge == "":
		return errors.New("identity has no edge name")
	case len(i.SessionEndpoints) == 0:
		return errors.New("identity names no endpoint of the controller")
	case len(i.ControlChain) == 0 || len(i.IKEChain) == 0:
		return errors.New("identity lacks a certificate")
	case len(i.ControllerRoots) == 0 || len(i.NetworkRoots) == 0:
		return errors.New("identity lacks trust anchors")
	case !samePublic(i.Control, i.ControlChain[0].PublicKey):
		return errors.New("control certificate is for another key")
	case !i.IKE.Public().(ed25519.PublicKey).Equal(i.IKEChain[0].PublicKey):
		return errors.New("IKE certificate is for another key")
	}
	return nil
}

// IssuedBy reports whether both certificates chain to the trust anchor whose subject
// public key info has that SHA-256, hexadecimal; intermediates are in their chains.
func (i *Identity) IssuedBy(pin string) bool {
	for _, root := range i.NetworkRoots {
		sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
		if hex.EncodeToString(sum[:]) == pin {
			return chainsTo(i.ControlChain, root) && chainsTo(i.IKEChain, root)
		}
	}
	return false
}

// chainsTo reports whether each certificate is signed by the next, up to the one that
// root signed. Behind that, a chain may go on to what signed root. Whether they are
// good otherwise was checked when they came.
func chainsTo(chain []*x509.Certificate, root *x509.Certificate) bool {
	for n, c := range chain {
		if c.CheckSignatureFrom(root) == nil {
			return true
		}
		if n+1 == len(chain) || c.CheckSignatureFrom(chain[n+1]) != nil {
			return false
		}
	}
	return false
}

// CandidateKeys returns the keys of the candidate identity. They are made and
// stored by the first call, and stay the same until Promote, so that asking the
// controller again after a crash or a lost answer is the same request.
func (d *Dir) CandidateKeys() (*Keys, error) {
	keys, err := d.readKeys(d.candidatePath())
	if err == nil && !d.outgrown(keys) || errors.As(err, new(tpmError)) {
		return keys, err
	}
	if _, serr := os.Stat(d.candidatePath()); serr == nil {
		// Keys that nothing was issued for yet: nothing is lost with them.
		if _, qerr := quarantine(d.candidatePath()); qerr != nil {
			return nil, qerr
		}
	}
	files := map[string][]byte{}
	if files["control.key"], err = d.newControl(); err != nil {
		return nil, err
	}
	if files["ike.key"], err = newIKE(); err != nil {
		return nil, err
	}
	tmp := d.candidatePath() + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return nil, fmt.Errorf("clear %s: %w", tmp, err)
	}
	if err := os.Mkdir(tmp, dirMode); err != nil {
		return nil, fmt.Errorf("make directory of candidate identity: %w", err)
	}
	for name, key := range files {
		err := writeFile(filepath.Join(tmp, name), key)
		if clear(key); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(tmp, d.candidatePath()); err != nil {
		return nil, fmt.Errorf("store keys of candidate identity: %w", err)
	}
	if err := syncDir(d.path); err != nil {
		return nil, err
	}
	return d.readKeys(d.candidatePath())
}

// outgrown says whether the keys were made before there was a TPM to keep them, and none of
// an identity are.
func (d *Dir) outgrown(keys *Keys) bool {
	_, soft := keys.Control.(*ecdsa.PrivateKey)
	_, err := os.Stat(d.identityPath())
	return soft && d.tpm != nil && errors.Is(err, fs.ErrNotExist)
}

// controllerRootsFile holds Identity.ControllerRoots.
const controllerRootsFile = "controller-roots.crt"

// SaveControllerRoots makes roots those of the identity in use, for the next LoadIdentity.
func (d *Dir) SaveControllerRoots(roots []*x509.Certificate) error {
	d.promoting.Lock()
	defer d.promoting.Unlock()
	path, content := filepath.Join(d.identityPath(), controllerRootsFile), encodeCertificates(roots)
	if stored, err := os.ReadFile(path); err == nil && bytes.Equal(stored, content) {
		return nil
	}
	return writeFile(path, content)
}

// Promote stores id, whose keys are the candidate's, and makes it the identity
// in use, in one step.
func (d *Dir) Promote(id *Identity) error {
	d.promoting.Lock()
	defer d.promoting.Unlock()
	if err := id.Check(); err != nil {
		return err
	}
	keys, err := d.readKeys(d.candidatePath())
	if err != nil {
		return fmt.Errorf("read keys of candidate identity: %w", err)
	}
	if !samePublic(keys.Control, id.Control.Public()) || !keys.IKE.Equal(id.IKE) {
		return errors.New("identity is not for the candidate's keys")
	}
	for name, chain := range id.certificateFiles() {
		if err := writeFile(filepath.Join(d.candidatePath(), name), encodeCertificates(*chain)); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(edgeFile{id.Edge, id.SessionEndpoints, id.RenewTime}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode edge.json: %w", err)
	}
	if err := writeFile(filepath.Join(d.candidatePath(), "edge.json"), append(b, '\n')); err != nil {
		return err
	}
	return d.exchangeIdentity()
}

// exchangeIdentity puts the candidate in the place of the identity in use;
// there is no moment without an identity.
func (d *Dir) exchangeIdentity() error {
	err := unix.Renameat2(unix.AT_FDCWD, d.candidatePath(), unix.AT_FDCWD, d.identityPath(), unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(d.candidatePath(), d.identityPath())
	}
	if err != nil {
		return fmt.Errorf("put new identity in place: %w", err)
	}
	if err := syncDir(d.path); err != nil {
		return err
	}
	if err := os.RemoveAll(d.candidatePath()); err != nil {
		return fmt.Errorf("remove old identity: %w", err)
	}
	return nil
}

// ReadCertificates reads a file of PEM certificates; one without any is an error.
func ReadCertificates(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseCertificates(path, b)
}

// ParseCertificates parses PEM certificates; name is what errors call them. It
// is an error if there is none.
func ParseCertificates(name string, b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: PEM block %q where a CERTIFICATE is wanted", name, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", name, len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM form", name)
	}
	return certs, nil
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}
