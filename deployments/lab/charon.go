package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strongswan/govici/vici"
)

// CharonPrograms are the files that a Charon of the host needs, for Require.
var CharonPrograms = []string{
	"swanctl", "/usr/sbin/charon-systemd",
	"/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so",
	"/usr/lib/ipsec/plugins/libstrongswan-curve25519.so",
	"/usr/lib/ipsec/plugins/libstrongswan-openssl.so",
}

// Charon is strongSwan's IKE daemon in a namespace.
type Charon struct {
	*Program
	host   *Namespace
	dir    string
	config CharonConfig
}

// A CharonConfig says which strongSwan runs, and how.
type CharonConfig struct {
	// Tree has the strongSwan to run; the zero value is the host's.
	Tree Tree
	// Swanctl is the text of swanctl.conf.
	Swanctl string
	// Options are further lines of the daemon's section in strongswan.conf.
	// Each setting stands on a line of its own, as a value runs to its end.
	Options string
	// KernelESP leaves ESP to the kernel. Without it charon does ESP itself:
	// in UDP and tunnel mode only, without ESN.
	KernelESP bool
	// Quiet leaves all but failures out of the log, which costs charon time.
	Quiet bool
}

// charonConfig loads libipsec before the kernel's interface, which would offer
// what a kernel without ESP cannot install.
const charonConfig = `charon-systemd {
  load_modular = yes
  install_virtual_ip = no
  plugins {
    include /etc/strongswan.d/charon/*.conf
    kernel-libipsec {
      load = %[2]s
      allow_peer_ts = yes
    }
    # It would write the host's resolv.conf.
    resolve {
      load = no
    }
    vici {
      load = yes
      socket = unix://%[1]s/vici
    }
  }
  filelog {
    lab {
      path = %[1]s/charon.log
      default = %[4]d
      ike = %[5]d
      cfg = %[5]d
      flush_line = yes
      time_format = %%T
      time_add_ms = yes
    }
  }
%[3]s
}
`

// StartCharon runs the host's daemon in host with the swanctl.conf given.
// Certificates and keys stand under dir as swanctl wants them: x509, x509ca,
// private.
func StartCharon(ctx context.Context, host *Namespace, dir, swanctlConf string) (*Charon, error) {
	return CharonConfig{Swanctl: swanctlConf}.Start(ctx, host, dir)
}

// Start runs a daemon in host. Certificates and keys stand under dir as swanctl
// wants them: x509, x509ca, private. The path of dir is short, since that of a
// socket in it is at most 108 octets.
func (c CharonConfig) Start(ctx context.Context, host *Namespace, dir string) (*Charon, error) {
	load, level, detail := "10", 1, 2
	if c.KernelESP {
		load = "no"
	}
	if c.Quiet {
		level, detail = 0, 0
	}
	files := map[string]string{
		"strongswan.conf": fmt.Sprintf(charonConfig, c.Tree.inside(dir), load, c.Options, level, detail),
		"swanctl.conf":    c.Swanctl,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "vici")); err != nil {
		return nil, err
	}
	d := &Charon{host: host, dir: dir, config: c}
	var err error
	d.Program, err = host.Start(nil, d.env(), c.Tree.Command(dir, "/usr/sbin/charon-systemd")...)
	if err != nil {
		return nil, err
	}
	if err := d.await(ctx); err != nil {
		d.Kill()
		return nil, err
	}
	return d, nil
}

func (c *Charon) env() []string {
	at := c.config.Tree.inside(c.dir)
	return []string{"STRONGSWAN_CONF=" + filepath.Join(at, "strongswan.conf"), "SWANCTL_DIR=" + at}
}

// await waits for the control socket and loads connections and credentials.
func (c *Charon) await(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Join(c.dir, "vici")); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-c.Done():
			return fmt.Errorf("charon ended: %s", c.Output())
		case <-ctx.Done():
			return fmt.Errorf("charon opened no control socket: %s", c.Output())
		}
	}
	for {
		_, err := c.Swanctl(ctx, "--load-all", "--file", filepath.Join(c.config.Tree.inside(c.dir), "swanctl.conf"))
		if err == nil || !strings.Contains(err.Error(), "Connection refused") {
			return err
		}
		// The socket is there, and nobody listens yet.
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Session opens a connection to the daemon's control socket.
func (c *Charon) Session() (*vici.Session, error) {
	s, err := vici.NewSession(vici.WithAddr("unix", filepath.Join(c.dir, "vici")))
	if err != nil {
		return nil, fmt.Errorf("connect with charon: %w", err)
	}
	return s, nil
}

// Output is what the daemon logged, and those before it in the same directory.
func (c *Charon) Output() string {
	b, err := os.ReadFile(filepath.Join(c.dir, "charon.log"))
	if err != nil {
		return c.Program.Output()
	}
	return string(b)
}

// Swanctl runs a swanctl command against the daemon and returns what it printed.
func (c *Charon) Swanctl(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{"env"}, c.env()...)
	argv = append(append(argv, "swanctl"), args...)
	argv = append(argv, "--uri", "unix://"+filepath.Join(c.config.Tree.inside(c.dir), "vici"))
	return c.host.Run(ctx, c.config.Tree.Command(c.dir, argv...)...)
}
