//go:build tpm

package tpm_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestEdge runs the program: it enrols with its key in a TPM, has its session again after a
// restart, and its disk is of no use with another TPM.
func TestEdge(t *testing.T) {
	lab.Require(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "swanherd-edge")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "tpm", "-o", program, "github.com/swanherd/swanherd/edge/cmd/swanherd-edge").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	by := newMaker(t)
	own, other := start(t, by, false), start(t, by, false)
	c := startController(t, by)
	machine := c.machine(t)
	disk := filepath.Join(dir, "state")
	run := func(args ...string) (string, error) {
		return machine.Run(t.Context(), append([]string{program}, args...)...)
	}

	fingerprint, err := own.EKFingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run("fingerprint", "--ek", "--tpm", own.socket, "--state-dir", disk); err != nil || strings.TrimSpace(out) != fingerprint {
		t.Errorf("fingerprint --ek: %q, %v, want %s", out, err, fingerprint)
	}
	if out, err := run("enroll", "--tpm", own.socket, "--state-dir", disk, "--token", c.token(t, true)); err != nil || !strings.Contains(out, "enrolled as "+network+"/edges/berlin") {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	key, err := os.ReadFile(filepath.Join(disk, "identity", "control.key"))
	if err != nil || !strings.HasPrefix(string(key), "-----BEGIN TSS2 PRIVATE KEY-----") {
		t.Errorf("control.key is %.40q, %v", key, err)
	}
	for range 2 {
		agent, err := machine.Start(t.Output(), nil, program, "run", "--tpm", own.socket, "--state-dir", disk, "--data-plane", "userspace")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(agent.Kill)
		eventually(t, "the session", func() bool { return c.connected(t) })
		if err := agent.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the session to end", func() bool { return !c.connected(t) })
	}

	copied := filepath.Join(dir, "copied")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", disk, copied).CombinedOutput(); err != nil {
		t.Fatalf("copy the disk: %v: %s", err, out)
	}
	for what, tc := range map[string]struct{ tpm, want string }{
		"another TPM": {other.socket, "the key is not this TPM's"},
		"no TPM":      {"", "control.key is a key in a TPM; run with --tpm"},
	} {
		if out, err := run("run", "--tpm", tc.tpm, "--state-dir", copied, "--data-plane", "userspace"); err == nil || !strings.Contains(out+err.Error(), tc.want) {
			t.Errorf("the disk with %s: %v\n%s", what, err, out)
		}
	}
	if c.connected(t) {
		t.Error("a copied disk got in")
	}
}

// machine is where the program runs, in a network namespace from which it reaches the
// controller at the address that tokens name.
func (c *controller) machine(t *testing.T) *lab.Namespace {
	t.Helper()
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	host, err := n.Add("edge")
	if err != nil {
		t.Fatal(err)
	}
	address := c.s.Info().EdgeAddr.String()
	var inside net.Listener
	if err := host.Do(func() (err error) { inside, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inside.Close() })
	go func() {
		for {
			conn, err := inside.Accept()
			if err != nil {
				return // closed
			}
			go relay(t.Context(), conn, address)
		}
	}()
	return host
}

func relay(ctx context.Context, inside net.Conn, address string) {
	defer inside.Close()
	outside, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer outside.Close()
	go func() {
		_, _ = io.Copy(outside, inside)
		outside.Close()
	}()
	_, _ = io.Copy(inside, outside)
}

// connected says whether the edge has a session.
func (c *controller) connected(t *testing.T) bool {
	t.Helper()
	e, err := swanherdv1.NewTopologyServiceClient(c.conn).GetEdge(t.Context(), &swanherdv1.GetEdgeRequest{Name: network + "/edges/berlin"})
	if err != nil {
		t.Fatal(err)
	}
	return e.GetStatus().GetConnected()
}
