package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/swanherd/swanherd/server/pki"
)

// serverIdentity is a TLS certificate of the controller, issued by its own
// authority at each start and anew when half of its life is over, or when that
// authority changed.
type serverIdentity struct {
	// authority is the controller's at the moment.
	authority func() *pki.Authority
	issue     func(a *pki.Authority, key crypto.PublicKey, now time.Time) (*pki.Certificate, error)

	mu      sync.Mutex
	current *tls.Certificate
	by      *pki.Authority
	renew   time.Time
}

// certificate returns the present certificate; it is tls.Config.GetCertificate.
func (i *serverIdentity) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, authority := time.Now(), i.authority()
	if i.current != nil && i.by == authority && now.Before(i.renew) {
		return i.current, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server key: %w", err)
	}
	c, err := i.issue(authority, key.Public(), now)
	if err != nil {
		return nil, fmt.Errorf("issue server certificate: %w", err)
	}
	i.current = &tls.Certificate{Certificate: c.Chain, PrivateKey: key, Leaf: c.Leaf}
	i.by, i.renew = authority, now.Add(pki.ServerLifetime/2)
	return i.current, nil
}

// hostsOf returns every name and address under which the controller may be
// reached, without duplicates.
func hostsOf(info Info) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	for _, address := range info.EdgeEndpoints {
		if host, _, err := net.SplitHostPort(address); err == nil {
			hosts = append(hosts, host)
		}
	}
	if u, err := url.Parse(info.URL); err == nil {
		hosts = append(hosts, u.Hostname())
	}
	for _, bound := range []net.Addr{info.OperatorAddr, info.EdgeAddr} {
		if ap, err := netip.ParseAddrPort(bound.String()); err == nil && !ap.Addr().IsUnspecified() {
			hosts = append(hosts, ap.Addr().Unmap().String())
		} else {
			hosts = append(hosts, machineAddrs()...)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(slices.DeleteFunc(hosts, func(h string) bool { return h == "" }))
}

// machineAddrs returns the machine's addresses that others may reach.
func machineAddrs() []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr().String())
		}
	}
	return out
}

// reachable is the address to tell others for a bound one: itself, or the
// machine's first if it is bound to all.
func reachable(bound net.Addr, fallback string) string {
	ap, err := netip.ParseAddrPort(bound.String())
	if err != nil || !ap.Addr().IsUnspecified() {
		return bound.String()
	}
	host := fallback
	if host == "" {
		host = "localhost"
		if addrs := machineAddrs(); len(addrs) > 0 {
			host = addrs[0]
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(ap.Port()))
}

// credentialName is the name of an administrator's credential in the data directory.
const credentialName = "admin-credential"

// pinPrefix says by which hash a pin was made.
const pinPrefix = "sha256:"

// credential is the file that an administrator signs in with.
type credential struct {
	Server string `json:"server"`
	CAPin  string `json:"ca_pin"`
	Token  string `json:"token"`
}

// writeCredential writes the file in one step, so that who waits for it never
// reads half of it.
func writeCredential(dir string, c credential) (string, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode credential: %w", err)
	}
	f, err := os.CreateTemp(dir, ".admin-credential-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("write credential: %w", err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(append(b, '\n'))
	if syncErr := f.Sync(); err == nil {
		err = syncErr
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	path := filepath.Join(dir, credentialName)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("write credential %s: %w", path, err)
	}
	return path, nil
}
