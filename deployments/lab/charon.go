package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CharonPrograms are the files that StartCharon needs, for Require.
var CharonPrograms = []string{
	"swanctl", "/usr/sbin/charon-systemd",
	"/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so",
	"/usr/lib/ipsec/plugins/libstrongswan-curve25519.so",
	"/usr/lib/ipsec/plugins/libstrongswan-openssl.so",
}

// Charon is strongSwan's IKE daemon in a namespace, with ESP in userspace.
type Charon struct {
	*Program
	host *Namespace
	dir  string
}

// charonConfig loads libipsec before the kernel's interface, which would offer
// what a kernel without ESP cannot install.
const charonConfig = `charon-systemd {
  load_modular = yes
  install_virtual_ip = no
  plugins {
    include /etc/strongswan.d/charon/*.conf
    kernel-libipsec {
      load = 10
      allow_peer_ts = yes
    }
    vici {
      load = yes
      socket = unix://%[1]s/vici
    }
  }
  filelog {
    stdout {
      default = 1
      ike = 2
      cfg = 2
    }
  }
}
`

// StartCharon runs a daemon in host with the swanctl.conf given. Certificates
// and keys stand under dir as swanctl wants them: x509, x509ca, private.
func StartCharon(ctx context.Context, host *Namespace, dir, swanctlConf string) (*Charon, error) {
	files := map[string]string{
		"strongswan.conf": fmt.Sprintf(charonConfig, dir),
		"swanctl.conf":    swanctlConf,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	c := &Charon{host: host, dir: dir}
	var err error
	c.Program, err = host.Start(nil, c.env(), "/usr/sbin/charon-systemd")
	if err != nil {
		return nil, err
	}
	if err := c.await(ctx); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

func (c *Charon) env() []string {
	return []string{"STRONGSWAN_CONF=" + filepath.Join(c.dir, "strongswan.conf"), "SWANCTL_DIR=" + c.dir}
}

// await waits for the control socket and loads connections and credentials.
func (c *Charon) await(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
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
	_, err := c.Swanctl(ctx, "--load-all", "--file", filepath.Join(c.dir, "swanctl.conf"))
	return err
}

// Swanctl runs a swanctl command against the daemon and returns what it printed.
func (c *Charon) Swanctl(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{"env"}, c.env()...)
	argv = append(append(argv, "swanctl"), args...)
	return c.host.Run(ctx, append(argv, "--uri", "unix://"+filepath.Join(c.dir, "vici"))...)
}
