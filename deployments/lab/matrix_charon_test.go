package lab_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

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
	rekeying bool // one of them
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

func (p *charonPeer) swanctl(ctx context.Context, args ...string) error {
	_, err := p.daemon.Swanctl(ctx, args...)
	return err
}

func (p *charonPeer) initiate(ctx context.Context) error {
	for _, child := range p.x.children {
		if err := p.swanctl(ctx, "--initiate", "--child", child); err != nil {
			return err
		}
	}
	return nil
}

func (p *charonPeer) rekeyIKE(ctx context.Context) error {
	return p.swanctl(ctx, "--rekey", "--ike", "ours")
}

func (p *charonPeer) rekeyChild(ctx context.Context, child string) error {
	return p.swanctl(ctx, "--rekey", "--child", child)
}

func (p *charonPeer) closeIKE(ctx context.Context) error {
	return p.swanctl(ctx, "--terminate", "--ike", "ours")
}

func (p *charonPeer) closeChild(ctx context.Context, child string) error {
	return p.swanctl(ctx, "--terminate", "--child", child)
}

func (p *charonPeer) show() string {
	out, err := p.daemon.Swanctl(context.Background(), "--list-sas")
	if err != nil {
		return err.Error()
	}
	return out
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
	out, err := p.daemon.Swanctl(ctx, "--list-sas", "--raw", "--pretty")
	if err != nil {
		return peerSAs{}, err
	}
	return parseSAs(out)
}

// parseSAs reads the sections of `swanctl --list-sas --raw --pretty`.
func parseSAs(text string) (peerSAs, error) {
	var s peerSAs
	var path []map[string]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasSuffix(line, "{"):
			path = append(path, map[string]string{})
		case line == "}" && len(path) > 0:
			v := path[len(path)-1]
			path = path[:len(path)-1]
			switch {
			case len(path) == 1 && v["state"] == "ESTABLISHED":
				s.ike++
			case len(path) == 3 && v["state"] == "INSTALLED":
				in, err := strconv.ParseUint(v["spi-in"], 16, 32)
				if err != nil {
					return s, fmt.Errorf("their list of SAs: %w", err)
				}
				out, err := strconv.ParseUint(v["spi-out"], 16, 32)
				if err != nil {
					return s, fmt.Errorf("their list of SAs: %w", err)
				}
				s.children = append(s.children, peerChild{v["name"], uint32(in), uint32(out)})
			}
			if len(path) == 1 && (v["tasks-active"] != "" || v["tasks-queued"] != "") {
				s.busy = true
			}
			if strings.HasPrefix(v["state"], "REKEYING") {
				s.rekeying = true
			}
		case len(path) > 0:
			if name, value, ok := strings.Cut(line, "="); ok {
				path[len(path)-1][strings.TrimSpace(name)] = strings.TrimSpace(value)
			}
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
		fmt.Fprintf(&children, "      %s {\n        local_ts = %s\n        remote_ts = %s\n        esp_proposals = %s\n%s\n      }\n",
			name, lans[name].theirs, lans[name].ours, x.theirESP, x.child)
	}
	return fmt.Sprintf(`connections {
  ours {
    version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = %s
    encap = yes
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
`, x.addr[theirs], ourPublic, x.theirIKE, local, quoteID(x.theirID), remote, quoteID(x.ourID), x.conn, children.String(), x.ourID, x.theirID, psk, x.top)
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
