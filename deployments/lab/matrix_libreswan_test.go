package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
)

// TestInteropLibreswan runs our engine against libreswan, whose ESP is the
// kernel's, in a virtual machine.
func TestInteropLibreswan(t *testing.T) {
	if inGuest() {
		runCases(t, libreswanCases(), newLibreswanPeer)
		return
	}
	runInGuest(t, lab.KernelDir, lab.TreeStrongSwan, lab.TreeLibreswan)
}

// libreswanPeer is libreswan's daemon, pluto, in the tree on the second disk.
type libreswanPeer struct {
	x       *run
	host    string // where it runs
	addr    netip.Addr
	dir     string // its files
	options string // lines of its setup
	conn    string // and of its connection
	tree    lab.Tree
	daemon  *lab.Program
	printed buffer
}

func newLibreswanPeer(x *run) peer {
	return &libreswanPeer{x: x, host: "theirs", addr: x.addr[theirs], dir: x.dir, options: x.options, conn: x.conn, tree: lab.Tree{Root: "/disk2"}}
}

// in runs a command of the tree to its end.
func (p *libreswanPeer) in(ctx context.Context, argv ...string) (string, error) {
	return p.x.hosts[p.host].Run(ctx, p.tree.Command(p.dir, argv...)...)
}

func (p *libreswanPeer) whack(ctx context.Context, args ...string) (string, error) {
	argv, err := p.tree.Client("usr/libexec/ipsec/whack", append([]string{"--ctlsocket", filepath.Join(p.dir, "pluto.ctl")}, args...)...)
	if err != nil {
		return "", err
	}
	return p.x.hosts[p.host].Run(ctx, argv...)
}

func (p *libreswanPeer) start() {
	x := p.x
	at := func(name string) string { return filepath.Join(lab.TreeMount, name) }
	if p.daemon == nil {
		p.prepare()
		// The kernel asks its policies only where there is a route.
		x.must(x.hosts[p.host].RouteDevice(netip.MustParsePrefix(lans[x.children[0]].ours), "wan1"))
	}
	for _, name := range []string{"pluto.pid", "pluto.ctl"} {
		os.Remove(filepath.Join(p.dir, name))
	}
	var err error
	p.daemon, err = x.hosts[p.host].Start(&p.printed, nil, p.tree.Command(p.dir, "/usr/libexec/ipsec/pluto", "--nofork", "--stderrlog",
		"--config", at("ipsec.conf"), "--nssdir", at("nss"), "--secretsfile", at("ipsec.secrets"), "--rundir", lab.TreeMount)...)
	x.must(err)
	daemon := p.daemon
	x.t.Cleanup(func() { daemon.Kill() })
	x.await("pluto to listen", func() (bool, string) {
		if _, err := os.Stat(filepath.Join(p.dir, "pluto.ctl")); err != nil {
			return false, err.Error()
		}
		out, err := p.whack(x.ctx, "--listen")
		return err == nil, fmt.Sprint(out, err)
	})
	if out, err := p.in(x.ctx, "ipsec", "addconn", "--config", at("ipsec.conf"), "--ctlsocket", at("pluto.ctl"), "ours"); err != nil {
		x.t.Fatalf("libreswan refuses the connection: %v\n%s\n%s", err, out, p.log())
	}
}

// prepare writes the configuration and fills the store of certificates.
func (p *libreswanPeer) prepare() {
	x := p.x
	write := func(name, text string) { x.must(os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600)) }
	l := lans[x.children[0]]
	auth := "  authby=secret\n"
	var script string
	if x.auth != "psk" {
		auth = "  authby=" + x.theirAuth + "\n  leftcert=theirs\n  leftsendcert=always\n  sendca=all\n"
		script = `openssl pkcs12 -export -name theirs -inkey private/theirs.key -in x509/theirs.pem -out theirs.p12 -passout pass:x
pk12util -i theirs.p12 -d sql:nss -W x
certutil -A -d sql:nss -n root -t CT,C,C -i x509ca/root.pem
`
	}
	if x.intermediate {
		script += "certutil -A -d sql:nss -n intermediate -t ,, -i x509ca/intermediate.pem\n"
	}
	write("ipsec.secrets", fmt.Sprintf("@%s @%s : PSK %q\n%s\n", x.theirID, x.ourID, psk, x.top))
	encapsulation, proposals := "yes", "esp="+x.theirESP
	if !x.encapsulated() {
		encapsulation = "no"
	}
	if ah, ok := strings.CutPrefix(x.theirESP, "ah-"); ok {
		proposals = "phase2=ah\n  ah=" + ah
	}
	write("ipsec.conf", fmt.Sprintf(`config setup
%s
conn ours
  keyexchange=ikev2
  left=%s
  leftid=@%s
  leftsubnet=%s
  right=%s
  rightid=@%s
  rightsubnet=%s
%s  ike=%s
  %s
  type=%s
  encapsulation=%s
  leftupdown=%%disabled
  retransmit-timeout=6s
  retransmit-interval=500ms
%s
`, p.options, p.addr, x.theirID, l.theirs, ourPublic, x.ourID, l.ours, auth, x.theirIKE, proposals, x.mode(), encapsulation, p.conn))
	empty, err := emptyStore()
	x.must(err)
	x.must(os.CopyFS(filepath.Join(p.dir, "nss"), os.DirFS(empty)))
	if script == "" {
		return
	}
	if out, err := p.in(x.ctx, "sh", "-e", "-c", "cd "+lab.TreeMount+"\n"+script); err != nil {
		x.t.Fatalf("fill libreswan's store of certificates: %v\n%s", err, out)
	}
}

// emptyStore is a store of certificates with nothing in it, which takes seconds to
// make.
var emptyStore = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nss")
	if err != nil {
		return "", err
	}
	argv := lab.Tree{Root: "/disk2"}.Command(dir, "certutil", "-N", "-d", "sql:"+lab.TreeMount, "--empty-password")
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make libreswan's store of certificates: %w: %s", err, out)
	}
	return dir, nil
})

// command runs what prints why it failed.
func (p *libreswanPeer) command(ctx context.Context, args ...string) error {
	out, err := p.whack(ctx, args...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// initiate waits no longer than a connection takes: whack stays for ever if the
// attempt that it waits for is joined to another one.
func (p *libreswanPeer) initiate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return p.command(ctx, "--name", "ours", "--initiate")
}

// rekeyIKE does not wait: what comes of it is seen at both ends, and whack, which
// waits with two states, has been left with one of them after a rekeying that
// succeeded.
func (p *libreswanPeer) rekeyIKE(ctx context.Context) error {
	return p.command(ctx, "--name", "ours", "--rekey-ike", "--asynchronous")
}

func (p *libreswanPeer) rekeyChild(ctx context.Context, _ string) error {
	return p.command(ctx, "--name", "ours", "--rekey-child", "--asynchronous")
}

// closeIKE deletes the IKE SA and what it has, without the connection's end.
func (p *libreswanPeer) closeIKE(ctx context.Context) error {
	return p.command(ctx, "--name", "ours", "--down-ike")
}

func (p *libreswanPeer) closeChild(ctx context.Context, _ string) error {
	return p.command(ctx, "--name", "ours", "--down-child")
}

func (p *libreswanPeer) show() string {
	out, err := p.whack(context.Background(), "--showstates")
	if err != nil {
		return err.Error()
	}
	return out
}

func (p *libreswanPeer) log() string           { return p.printed.String() }
func (p *libreswanPeer) kill()                 { p.daemon.Kill() }
func (p *libreswanPeer) done() <-chan struct{} { return p.daemon.Done() }

var (
	stateLine = regexp.MustCompile(`^#(\d+): "ours".*\((established IKE SA|established Child SA)\)`)
	spiLine   = regexp.MustCompile(`^#(\d+): "ours".* (?:esp|ah)\.([0-9a-f]+)@\S+ (?:esp|ah)\.([0-9a-f]+)@`)
)

// sas reads what whack says of the states: a line for each, and one with the
// SPIs of a Child SA, the outbound one first.
func (p *libreswanPeer) sas(ctx context.Context) (peerSAs, error) {
	out, err := p.whack(ctx, "--showstates")
	if err != nil {
		return peerSAs{}, err
	}
	var s peerSAs
	up := map[string]bool{}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if m := stateLine.FindStringSubmatch(line); m != nil {
			up[m[1]] = true
			s.busy = s.busy || !strings.Contains(line, "idle;")
			if m[2] == "established IKE SA" {
				s.ike++
			}
			continue
		}
		m := spiLine.FindStringSubmatch(line)
		if m == nil || !up[m[1]] {
			continue
		}
		out, err1 := strconv.ParseUint(m[2], 16, 32)
		in, err2 := strconv.ParseUint(m[3], 16, 32)
		if err := errors.Join(err1, err2); err != nil {
			return s, fmt.Errorf("their list of states: %w", err)
		}
		s.children = append(s.children, peerChild{p.x.children[0], uint32(in), uint32(out)})
	}
	return s, nil
}

// libreswanBase is what the cases have in common, in words of both. As responder
// libreswan sends on a new Child SA before it answers, which RFC 7296, Section 2.8,
// lets it do: what comes before its answer is lost, so these cases only tell how
// much that is.
func libreswanBase() interopCase {
	return interopCase{
		lossy: true,
		ike:   "aes256gcm16-prfsha384-x25519", theirIKE: "aes_gcm256-sha2_384-dh31",
		esp: "aes128gcm16-x25519", theirESP: "aes_gcm128-null-dh31", theirAuth: "ecdsa",
	}
}

// libreswanCases are the main cases, once more with an implementation that has
// nothing in common with the others.
func libreswanCases() []interopCase {
	base := libreswanBase()
	with := func(name string, edit func(*interopCase)) []interopCase {
		c := base
		c.name = name
		edit(&c)
		return each(c)
	}
	return slices.Concat(
		libreswanResumeCases(base), libreswanRedirectCases(base), libreswanPPKCases(base), libreswanLifeCases(base),
		with("psk", func(c *interopCase) { c.steps = eachRekey() }),
		with("certificates", func(c *interopCase) {
			c.auth, c.intermediate = "ecdsa384+ecdsa256", true
			c.steps = []step{rekeyIKE(ours), rekeyIKE(theirs)}
		}),
		with("RSA-PSS, fragments", func(c *interopCase) {
			c.auth, c.theirAuth = "rsa2048+rsa2048", "rsa-sha2"
			c.tunnel = func(t *engine.TunnelConfig) { t.FragmentSize = 576 }
			c.steps = []step{rekeyChild(ours), rekeyChild(theirs)}
		}),
		// Not of the IKE SA: libreswan never deletes the one of its own that lost
		// (RFC 7296, Section 2.8.2).
		with("crossing rekeys", func(c *interopCase) {
			c.steps = []step{crossing(rekeysChild, rekeysChild), rekeyIKE(theirs)}
		}),
		with("delete", func(c *interopCase) {
			c.steps = []step{closeIKE(ours), closeIKE(theirs)}
		}),
		with("behind NAT", func(c *interopCase) {
			c.nat = [2]bool{true, false}
			c.tunnel = func(t *engine.TunnelConfig) { t.ForceEncap = false }
			c.steps = []step{rekeyChild(theirs), rekeyIKE(ours)}
		}),
		with("link is cut", func(c *interopCase) {
			// Killing the daemon would leave the kernel's SAs, and packets are a
			// sign of life.
			c.tunnel = func(t *engine.TunnelConfig) {
				t.Timing.DPD, t.Timing.RetransmitBase = 2*time.Second, time.Second
			}
			c.conn = "  dpddelay=2"
			c.steps = []step{cutLink()}
		}),
		with("kernel", func(c *interopCase) {
			c.kernel, c.steps = true, eachRekey()
		}),
		with("transport", func(c *interopCase) {
			c.kernel, c.transport, c.steps = true, true, eachRekey()
		}),
		// Not rekeyed by libreswan: it does not find the Delete payload for AH in the
		// answer to its own, and gives up the IKE SA.
		with("ah", func(c *interopCase) {
			c.kernel, c.steps = true, []step{rekeyChild(ours), rekeyIKE(ours), rekeyIKE(theirs)}
			c.esp, c.theirESP = "ah-sha256-x25519", "ah-sha2_256-dh31"
		}),
		with("ah transport", func(c *interopCase) {
			c.kernel, c.transport, c.steps = true, true, []step{rekeyChild(ours), rekeyIKE(ours), rekeyIKE(theirs)}
			c.esp, c.theirESP = "ah-sha512-x25519", "ah-sha2_512-dh31"
		}),
		with("aes-cbc, esn", func(c *interopCase) {
			c.ike, c.theirIKE = "aes256-sha512-ecp384", "aes256-sha2_512-dh20"
			c.esp, c.theirESP = "aes256-sha256-ecp384-esn", "aes256-sha2_256-dh20"
			c.conn = "  esn=yes"
			c.steps = []step{rekeyChild(ours), rekeyIKE(theirs)}
		}),
	)
}
