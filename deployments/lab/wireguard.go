package lab

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// WireGuard is a userspace WireGuard in Go, which benchmarks run beside ours.
type WireGuard struct {
	Name    string // for people
	Module  string
	Version string
	binary  string // what go install makes of it
}

// The two that are measured.
var (
	WireGuardGo        = WireGuard{"wireguard-go", "golang.zx2c4.com/wireguard", "v0.0.0-20260522210424-ecfc5a8d5446", "wireguard"}
	WireGuardTailscale = WireGuard{"Tailscale's fork", "github.com/tailscale/wireguard-go", "v0.0.0-20260928213032-417aef361226", "wireguard-go"}
)

// Build makes the program in dir and returns its path.
func (w WireGuard) Build(ctx context.Context, dir string) (string, error) {
	build := exec.CommandContext(ctx, "go", "install", w.Module+"@"+w.Version)
	build.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", w.Name, err, out)
	}
	return filepath.Join(dir, w.binary), nil
}

// WireGuardEnd is one end of a tunnel.
type WireGuardEnd struct {
	Host      *Namespace
	Interface string // unique on the machine, as the control socket bears its name
	Address   netip.AddrPort
	Behind    netip.Prefix // the network behind this end
}

// StartWireGuard runs a program of WireGuard at both ends, connects them and routes
// into the interfaces.
func StartWireGuard(ctx context.Context, program string, ends [2]WireGuardEnd) (running []*Program, err error) {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	for i, end := range ends {
		p, err := end.Host.Start(nil, []string{"LOG_LEVEL=error"}, program, "--foreground", end.Interface)
		if err != nil {
			return running, err
		}
		running = append(running, p)
		far := ends[1-i]
		config := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=%s\n\n",
			hex.EncodeToString(keys[i].Bytes()), end.Address.Port(),
			hex.EncodeToString(keys[1-i].PublicKey().Bytes()), far.Address, far.Behind)
		if err := configureWireGuard(ctx, end.Interface, config); err != nil {
			return running, fmt.Errorf("%w\n%s", err, p.Output())
		}
		if err := end.Host.Up(end.Interface); err != nil {
			return running, err
		}
		if err := end.Host.RouteDevice(far.Behind, end.Interface); err != nil {
			return running, err
		}
	}
	return running, nil
}

// configureWireGuard speaks the protocol of the control socket, which appears when
// the program has started.
func configureWireGuard(ctx context.Context, name, config string) error {
	socket := "/var/run/wireguard/" + name + ".sock"
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			defer c.Close()
			if _, err := c.Write([]byte(config)); err != nil {
				return fmt.Errorf("configure %s: %w", name, err)
			}
			answer := make([]byte, 64)
			n, err := c.Read(answer)
			if err != nil || string(answer[:n]) != "errno=0\n\n" {
				return fmt.Errorf("configure %s: answer %q, %v", name, answer[:n], err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("configure %s: %w", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
