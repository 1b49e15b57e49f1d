package lab_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strongswan/govici/vici"

	"github.com/swanherd/swanherd/deployments/lab"
)

// peer is the other implementation. Commands return when the peer has done
// what was asked, or failed.
type peer interface {
	start()
	initiate(ctx context.Context) error
	rekeyIKE(ctx context.Context) error
	rekeyChild(ctx context.Context, child string) error
	closeIKE(ctx context.Context) error
	closeChild(ctx context.Context, child string) error
	// sas are the SAs that are established and in use.
	sas(ctx context.Context) (peerSAs, error)
	// show is what there is, for people.
	show() string
	log() string
	kill()
	done() <-chan struct{}
}

// peerSAs is what a peer has.
type peerSAs struct {
	ike      int
	busy     bool // with an exchange
	children []peerChild
}

type peerChild struct {
	name    string
	in, out uint32
}

// charonPeer is strongSwan.
type charonPeer struct {
	x      *run
	config lab.CharonConfig
	daemon *lab.Charon
}

func newCharonPeer(tree lab.Tree) func(*run) peer {
	return func(x *run) peer {
		p := &charonPeer{x: x}
		p.config = lab.CharonConfig{Tree: tree, Swanctl: x.swanctlConf(), Options: x.options + `
  retransmit_timeout = 0.7
  retransmit_base = 1.4
  retransmit_tries = 4`}
		return p
	}
}

func (p *charonPeer) start() {
	var err error
	p.daemon, err = p.config.Start(p.x.ctx, p.x.hosts["theirs"], p.x.dir)
	p.x.must(err)
	daemon := p.daemon
	p.x.t.Cleanup(func() { daemon.Stop(5 * time.Second) })
}

// call gives the daemon a command and waits for its end. Each has a session of
// its own, so that one that waits holds up no other.
func (p *charonPeer) call(ctx context.Context, command string, arguments map[string]string) error {
	session, err := p.daemon.Session()
	if err != nil {
		return err
	}
	defer session.Close()
	m, err := vici.MarshalMessage(arguments)
	if err != nil {
		return err
	}
	if _, err := session.Call(ctx, command, m); err != nil {
		return fmt.Errorf("their %s of %v: %w", command, arguments, err)
	}
	return nil
}

func (p *charonPeer) initiate(ctx context.Context) error {
	for _, child := range p.x.children {
		if err := p.call(ctx, "initiate", map[string]string{"child": child, "loglevel": "-1"}); err != nil {
			return err
		}
	}
	return nil
}

func (p *charonPeer) rekeyIKE(ctx context.Context) error {
	return p.call(ctx, "rekey", map[string]string{"ike": "ours"})
}

func (p *charonPeer) rekeyChild(ctx context.Context, child string) error {
	return p.call(ctx, "rekey", map[string]string{"child": child})
}

func (p *charonPeer) closeIKE(ctx context.Context) error {
	return p.call(ctx, "terminate", map[string]string{"ike": "ours", "loglevel": "-1"})
}

func (p *charonPeer) closeChild(ctx context.Context, child string) error {
	return p.call(ctx, "terminate", map[string]string{"child": child, "loglevel": "-1"})
}

// list returns the IKE SAs with all that is known of them, in the order in which
// they were made.
func (p *charonPeer) list(ctx context.Context) ([]*vici.Message, error) {
	session, err := p.daemon.Session()
	if err != nil {
		return nil, err
	}
	defer session.Close()
	var out []*vici.Message
	for m, err := range session.CallStreaming(ctx, "list-sas", "list-sa", nil) {
		if err != nil {
			return nil, fmt.Errorf("list their SAs: %w", err)
		}
		for _, name := range m.Keys() {
			if sa, ok := m.Get(name).(*vici.Message); ok {
				out = append(out, sa)
			}
		}
	}
	return out, nil
}

func (p *charonPeer) show() string {
	list, err := p.list(context.Background())
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(list)
}

// log is what the daemons of the case wrote, without our own commands.
func (p *charonPeer) log() string {
	var b strings.Builder
	for line := range strings.Lines(p.daemon.Output()) {
		if !strings.Contains(line, "vici client") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (p *charonPeer) kill()                 { p.daemon.Kill() }
func (p *charonPeer) done() <-chan struct{} { return p.daemon.Done() }

func (p *charonPeer) sas(ctx context.Context) (peerSAs, error) {
	list, err := p.list(ctx)
	if err != nil {
		return peerSAs{}, err
	}
	var s peerSAs
	for _, sa := range list {
		if sa.Get("state") == "ESTABLISHED" {
			s.ike++
		}
		s.busy = s.busy || sa.Get("tasks-active") != nil || sa.Get("tasks-queued") != nil
		children, ok := sa.Get("child-sas").(*vici.Message)
		if !ok {
			continue
		}
		for _, key := range children.Keys() {
			c, ok := children.Get(key).(*vici.Message)
			if !ok || c.Get("state") != "INSTALLED" {
				continue
			}
			name, _ := c.Get("name").(string)
			in, err1 := strconv.ParseUint(fmt.Sprint(c.Get("spi-in")), 16, 32)
			out, err2 := strconv.ParseUint(fmt.Sprint(c.Get("spi-out")), 16, 32)
			if err := errors.Join(err1, err2); err != nil {
				return s, fmt.Errorf("list their SAs: %w", err)
			}
			s.children = append(s.children, peerChild{name, uint32(in), uint32(out)})
		}
	}
	return s, nil
}

// swanctlConf is the configuration of strongSwan for the case.
func (x *run) swanctlConf() string {
	local, remote := "auth = psk", "auth = psk"
	if x.auth != "psk" {
		local, remote = "auth = pubkey\n      certs = theirs.pem", "auth = pubkey"
	}
	if x.theirAuth != "" {
		local = strings.Replace(local, "auth = pubkey", "auth = "+x.theirAuth, 1)
	}
	if x.ourAuth != "" {
		remote = "auth = " + x.ourAuth
	}
	var children strings.Builder
	for _, name := range x.children {
		proposals := "esp_proposals = " + x.theirESP
		if ah, ok := strings.CutPrefix(x.theirESP, "ah-"); ok {
			proposals = "ah_proposals = " + ah
		}
		fmt.Fprintf(&children, "      %s {\n        local_ts = %s\n        remote_ts = %s\n        mode = %s\n        %s\n%s\n      }\n",
			name, x.lan(theirs, name).own, x.lan(theirs, name).far, x.mode(), proposals, x.child)
	}
	encap := "yes" // as our ESP in user space needs
	if !x.encapsulated() {
		encap = "no"
	}
	return fmt.Sprintf(`connections {
  ours {
    version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = %s
    encap = %s
    local {
      %s
      id = %s
    }
    remote {
      %s
      id = %s
    }
%s
    children {
%s
    }
  }
}
secrets {
  ike-1 {
    id-1 = %q
    id-2 = %q
    secret = %q
  }
}
%s
`, x.addr[theirs], ourPublic, x.theirIKE, encap, local, quoteID(x.theirID), remote, quoteID(x.ourID), x.conn, children.String(), x.ourID, x.theirID, psk, x.top)
}

// quoteID keeps the commas of a distinguished name together. Its parts stand in
// the order of the encoding, other than in RFC 4514.
func quoteID(id string) string {
	if strings.Contains(id, "=") {
		parts := strings.Split(id, ", ")
		slices.Reverse(parts)
		id = strings.Join(parts, ", ")
	}
	return strconv.Quote(id)
}
