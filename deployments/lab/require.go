package lab

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Require skips the test, saying why and what would help, unless namespaces
// can be made, TUN devices opened, and the named programs are there. A name
// with a slash is a file.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	n := New()
	defer n.Close()
	if _, err := n.Add("probe"); err != nil {
		t.Skipf("SKIPPED: needs network namespaces (%v); run it as root or under `unshare -Urnm`", err)
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: needs TUN devices (%v); load the tun module, or let the container have /dev/net/tun", err)
	}
	tun.Close()
	for _, p := range programs {
		_, err := exec.LookPath(p)
		if strings.HasPrefix(p, "/") {
			_, err = os.Stat(p)
		}
		if err != nil {
			t.Skipf("SKIPPED: needs %s (%v); `go run ./deployments/dev setup` installs it", p, err)
		}
	}
}
