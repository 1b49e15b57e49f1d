package lab_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestInteropStrongSwan runs our agent against strongSwan's charon: each of
// them initiates, with a pre-shared key and with certificates. Traffic passes
// between the LANs behind them, before and after each side's rekeys.
func TestInteropStrongSwan(t *testing.T) {
	lab.Require(t, lab.CharonPrograms...)
	agent := buildAgent(t)
	for _, auth := range []string{"psk", "certificate"} {
		for _, initiator := range []string{"ours", "theirs"} {
			t.Run(auth+"/"+initiator+" initiates", func(t *testing.T) {
				t.Parallel()
				newInterop(t, agent, auth, initiator).run()
			})
		}
	}
}

// agents are the programs that buildAgent has made, by its further arguments.
var agents sync.Map

// buildAgent compiles swanherd-edge once for all tests, with further arguments for go
// build.
func buildAgent(t testing.TB, args ...string) string {
	t.Helper()
	if inGuest() {
		return "/run/swanherd-edge" // see runInGuestWith
	}
	build, _ := agents.LoadOrStore(strings.Join(args, " "), sync.OnceValues(func() (string, error) {
		file := filepath.Join(scratch, rand.Text(), "swanherd-edge")
		out, err := exec.Command("go", append(append([]string{"build", "-o", file}, args...), "github.com/swanherd/swanherd/edge/cmd/swanherd-edge")...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build the agent: %w\n%s", err, out)
		}
		return file, nil
	}))
	file, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

const psk = "a pre-shared key of the test"

// pair is two gateways on a link with a host behind each: 10.1.0.2 behind ours,
// 10.2.0.2 behind theirs. The gateways have no route to each other's LAN, so that
// nothing passes but through a tunnel.
type pair struct {
	t                  testing.TB
	ctx                context.Context
	dir                string
	ours, theirs       *lab.Namespace
	oursLAN, theirsLAN *lab.Namespace
	oursHost           netip.Addr
	theirsHost         netip.Addr
}

func newPair(t testing.TB, patience time.Duration) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	x := &pair{
		t: t, ctx: ctx, dir: t.TempDir(),
		oursHost: netip.MustParseAddr("10.1.0.2"), theirsHost: netip.MustParseAddr("10.2.0.2"),
	}
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	for name, at := range map[string]**lab.Namespace{"ours": &x.ours, "theirs": &x.theirs, "ours-lan": &x.oursLAN, "theirs-lan": &x.theirsLAN} {
		ns, err := n.Add(name)
		x.must(err)
		*at = ns
	}
	p := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	everything := netip.MustParsePrefix("0.0.0.0/0")
	x.must(n.Link(lab.End{Host: x.ours, Interface: "wan1", Addresses: p("192.0.2.1/24")}, lab.End{Host: x.theirs, Interface: "wan1", Addresses: p("192.0.2.2/24")}))
	x.must(n.Link(lab.End{Host: x.ours, Interface: "lan0", Addresses: p("10.1.0.1/24")}, lab.End{Host: x.oursLAN, Interface: "eth0", Addresses: p("10.1.0.2/24")}))
	x.must(n.Link(lab.End{Host: x.theirs, Interface: "lan0", Addresses: p("10.2.0.1/24")}, lab.End{Host: x.theirsLAN, Interface: "eth0", Addresses: p("10.2.0.2/24")}))
	x.must(x.oursLAN.Route(everything, netip.MustParseAddr("10.1.0.1")))
	x.must(x.theirsLAN.Route(everything, netip.MustParseAddr("10.2.0.1")))
	return x
}

func (x *pair) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// awaitPing pings until an answer comes, or a program has ended.
func (x *pair) awaitPing(what string, programs ...*lab.Program) {
	x.t.Helper()
	for {
		_, err := x.oursLAN.Ping(x.ctx, x.oursHost, x.theirsHost, 1)
		if err == nil {
			return
		}
		if x.ctx.Err() != nil {
			x.t.Fatalf("waited in vain for %s: %v", what, err)
		}
		for _, p := range programs {
			select {
			case <-p.Done():
				x.t.Fatalf("waiting for %s: a gateway ended:\n%s", what, p.Output())
			default:
			}
		}
	}
}

// ping passes traffic both ways.
func (x *pair) ping(when string) {
	x.t.Helper()
	if _, err := x.oursLAN.Ping(x.ctx, x.oursHost, x.theirsHost, 10); err != nil {
		x.t.Fatalf("%s: %v", when, err)
	}
	if _, err := x.theirsLAN.Ping(x.ctx, x.theirsHost, x.oursHost, 10); err != nil {
		x.t.Fatalf("%s: %v", when, err)
	}
}

func (x *pair) sub(name string) string {
	dir := filepath.Join(x.dir, name)
	x.must(os.MkdirAll(dir, 0o700))
	return dir
}

func (x *pair) write(name, text string) string {
	file := filepath.Join(x.dir, name)
	x.must(os.MkdirAll(filepath.Dir(file), 0o700))
	x.must(os.WriteFile(file, []byte(text), 0o600))
	return file
}

func (x *pair) read(name string) string {
	b, err := os.ReadFile(filepath.Join(x.dir, name))
	x.must(err)
	return string(b)
}

// interop is one case: our agent on one side, strongSwan on the other.
type interop struct {
	*pair
	agent           string
	auth, initiator string
	program         *lab.Program
	charon          *lab.Charon
}

func newInterop(t *testing.T, agent, auth, initiator string) *interop {
	t.Helper()
	return &interop{pair: newPair(t, 120*time.Second), agent: agent, auth: auth, initiator: initiator}
}

func (x *interop) run() {
	x.writeCredentials()
	var err error
	x.charon, err = lab.StartCharon(x.ctx, x.theirs, x.sub("charon"), x.swanctlConf())
	x.must(err)
	x.t.Cleanup(func() { x.charon.Stop(5 * time.Second); x.showLogs() })
	intent := x.write("intent.yaml", x.intent())
	x.program, err = x.ours.Start(nil, nil, x.agent, "run", "--intent", intent, "--state-dir", x.sub("state"))
	x.must(err)
	x.t.Cleanup(func() { x.program.Stop(5 * time.Second) })
	if x.initiator == "theirs" {
		x.initiate()
	}
	x.awaitPing("the tunnel to come up", x.program, x.charon.Program)
	x.ping("at once")
	for _, what := range []string{"--child", "--ike"} {
		name := "net"
		if what == "--ike" {
			name = "ours"
		}
		out, err := x.charon.Swanctl(x.ctx, "--rekey", what, name)
		if err != nil {
			x.t.Fatalf("rekey %s by strongSwan: %v\n%s", what, err, out)
		}
		x.ping("after strongSwan's rekey " + what)
	}
	x.awaitOurRekeys()
	x.ping("after our rekeys")
	x.awaitOneOfEach()
}

// awaitOurRekeys passes traffic until we have rekeyed either SA.
func (x *interop) awaitOurRekeys() {
	x.t.Helper()
	before := x.program.Output()
	for _, what := range []string{"Child SA rekeyed", "IKE SA rekeyed"} {
		for strings.Count(x.program.Output(), what) < strings.Count(before, what)+1 {
			if x.ctx.Err() != nil {
				x.t.Fatalf("waited in vain for our log to say once more: %s", what)
			}
			x.ping("during our rekeys")
		}
	}
}

// awaitOneOfEach waits for the Delete that may be under way.
func (x *interop) awaitOneOfEach() {
	x.t.Helper()
	for {
		sas, err := x.charon.Swanctl(x.ctx, "--list-sas")
		if err == nil && strings.Count(sas, "INSTALLED") == 1 && strings.Count(sas, "ESTABLISHED") == 1 {
			return
		}
		if x.ctx.Err() != nil {
			x.t.Fatalf("strongSwan does not come to one IKE SA and one Child SA: %v\n%s", err, sas)
		}
	}
}

// initiate retries: our agent may not listen yet.
func (x *interop) initiate() {
	for {
		_, err := x.charon.Swanctl(x.ctx, "--initiate", "--child", "net", "--timeout", "3")
		if err == nil {
			return
		}
		if x.ctx.Err() != nil {
			x.t.Fatalf("initiate by strongSwan: %v", err)
		}
	}
}

func (x *interop) showLogs() {
	if x.t.Failed() {
		x.t.Logf("strongSwan:\n%s", x.charon.Output())
		if x.program != nil {
			x.t.Logf("ours:\n%s", x.program.Output())
		}
	}
}

func (x *interop) swanctlConf() string {
	local, remote := "auth = psk", "auth = psk"
	if x.auth == "certificate" {
		local, remote = "auth = pubkey\n      certs = theirs.pem", "auth = pubkey"
	}
	return fmt.Sprintf(`connections {
  ours {
    version = 2
    local_addrs = 192.0.2.2
    remote_addrs = 192.0.2.1
    proposals = aes256gcm16-prfsha384-x25519
    encap = yes
    local {
      %s
      id = theirs.example
    }
    remote {
      %s
      id = ours.example
    }
    children {
      net {
        local_ts = 10.2.0.0/24
        remote_ts = 10.1.0.0/24
        esp_proposals = aes128gcm16-x25519
      }
    }
  }
}
secrets {
  ike-1 {
    id-1 = ours.example
    id-2 = theirs.example
    secret = "%s"
  }
}
`, local, remote, psk)
}

// intent has lifetimes of which a tenth, after which an SA ends that could not be
// replaced, is enough for charon to answer on a busy machine.
func (x *interop) intent() string {
	role := "TUNNEL_ROLE_RESPONDER"
	if x.initiator == "ours" {
		role = "TUNNEL_ROLE_INITIATOR"
	}
	settings := "settings:\n  localPrefixes: [10.1.0.0/24]\n"
	method := "psk: {file: " + filepath.Join(x.dir, "psk") + "}"
	if x.auth == "certificate" {
		settings += "  identityFiles: {certificate: " + filepath.Join(x.dir, "ours.pem") + ", key: " + filepath.Join(x.dir, "ours.key") + "}\n" +
			"  trustAnchors:\n    - |\n      " + strings.ReplaceAll(strings.TrimSpace(x.read("charon/x509ca/ca.pem")), "\n", "\n      ") + "\n"
		method = "certificate: {}"
	}
	return settings + fmt.Sprintf(`tunnels:
  - name: theirs
    role: %s
    localAddress: 192.0.2.1
    remoteEndpoints: [{address: 192.0.2.2}]
    authentication:
      localId: ours.example
      remoteId: theirs.example
      %s
    ikeProposals: [aes256gcm16-prfsha384-x25519]
    forceUdpEncapsulation: true
    ikeRekeyTime: 25s
    children:
      - name: net
        espProposals: [aes128gcm16-x25519]
        rekeyTime: 20s
        localTs: [10.1.0.0/24]
        remoteTs: [10.2.0.0/24]
`, role, method)
}

// writeCredentials makes an authority and a certificate for each side: Ed25519
// for ours, ECDSA P-256 for theirs, so that both are signed and verified.
func (x *interop) writeCredentials() {
	x.write("psk", psk+"\n")
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	x.must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "interop"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	x.must(err)
	x.writePEM("charon/x509ca/ca.pem", "CERTIFICATE", caDER)
	_, oursKey, err := ed25519.GenerateKey(rand.Reader)
	x.must(err)
	theirsKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	x.must(err)
	x.issue(ca, caKey, 2, "ours.example", oursKey, "ours.pem", "ours.key")
	x.issue(ca, caKey, 3, "theirs.example", theirsKey, "charon/x509/theirs.pem", "charon/private/theirs.key")
}

func (x *interop) issue(ca *x509.Certificate, caKey crypto.Signer, serial int64, name string, key crypto.Signer, certFile, keyFile string) {
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	x.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	x.must(err)
	x.writePEM(certFile, "CERTIFICATE", der)
	x.writePEM(keyFile, "PRIVATE KEY", keyDER)
}

func (x *interop) writePEM(file, kind string, der []byte) {
	x.write(file, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}
