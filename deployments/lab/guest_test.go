package lab_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
)

// guestEnv is set in a virtual machine.
const guestEnv = "SWANHERD_GUEST"

func inGuest() bool { return os.Getenv(guestEnv) != "" }

// kernelModules are what the gateways in a virtual machine need.
var kernelModules = []string{
	"virtio_pci", "virtio_blk", "ext4", "tun", "veth", "af_packet",
	"xfrm_user", "xfrm_interface", "esp4", "esp6", "ah4", "ah6", "af_key",
	"gcm", "ccm", "seqiv", "ghash_generic", "aesni_intel", "ghash_clmulni_intel", "chacha20poly1305", "chacha", "chacha_generic", "poly1305_generic",
	"cbc", "ctr", "xcbc", "hmac", "sha256_generic", "sha512_generic", "authenc", "authencesn", "echainiv", "cryptd", "crypto_null", "drbg", "jitterentropy_rng", "aes_generic",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_reject_inet", "nf_conntrack_netlink",
}

// runInGuest runs the test that calls it, and no other, in a virtual machine with
// that kernel and with the trees as disks, and reports its subtests here.
func runInGuest(t *testing.T, kernelDir string, trees ...string) {
	runInGuestOf(t, guest{}, kernelDir, trees...)
}

// runInGuestWith does so with further programs in /run.
func runInGuestWith(t *testing.T, files func() []string, kernelDir string, trees ...string) {
	runInGuestOf(t, guest{files: files}, kernelDir, trees...)
}

// guest is what a virtual machine has that others have not.
type guest struct {
	cpus    int             // 0: 2
	files   func() []string // programs in /run; nil: none
	modules []string        // of the kernel
	without []string        // of kernelModules
	alone   bool            // no other machine runs beside it
}

// machines bounds how many of them run at a time: however many processors it has, each
// keeps about one of the host's busy. Each has a gigabyte.
var machines = make(chan struct{}, min(runtime.NumCPU(), 4))

// runInGuestOf does so in such a machine.
func runInGuestOf(t *testing.T, g guest, kernelDir string, trees ...string) {
	if testing.Short() {
		return // with the race detector it would take very long
	}
	lab.Require(t, "qemu-system-x86_64")
	if !g.alone {
		t.Parallel()
		machines <- struct{}{}
		defer func() { <-machines }()
	}
	vm := lab.VM{
		Modules: slices.Concat(lacking(kernelModules, g.without), g.modules), MemoryMB: 1024, CPUs: cmp.Or(g.cpus, 2),
		Args: []string{"-test.v", "-test.count=" + cmp.Or(os.Getenv("SWANHERD_GUEST_COUNT"), "1"), "-test.run=" + wanted(t.Name()), "-test.timeout=15m", "-test.parallel=3"},
		Env:  []string{guestEnv + "=1", "SWANHERD_INTEROP=" + os.Getenv("SWANHERD_INTEROP")},
	}
	if g.files != nil {
		vm.Files = g.files()
	}
	keys, err := keysForGuest()
	if err != nil {
		t.Fatal(err)
	}
	vm.Env = append(vm.Env, keys...)
	kernel, err := lab.OpenTree(kernelDir)
	if err != nil && lab.CannotBeHad(kernelDir) {
		t.Skipf("%s: %v", lab.NotToBeHad, err)
	}
	if err != nil {
		t.Skipf("SKIPPED, so not run: %v", err)
	}
	vm.Kernel = kernel.Root
	for _, name := range trees {
		tree, err := lab.OpenTree(name)
		if err != nil {
			t.Skipf("SKIPPED, so not run: %v", err)
		}
		vm.Disks = append(vm.Disks, tree.Root+".img")
	}
	if vm.Program, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 16*time.Minute)
	defer cancel()
	said, status, err := boot(t, ctx, vm)
	for again := 0; again < 2 && errors.Is(err, lab.ErrKernelPanic); again++ {
		t.Logf("%v; it is booted once more. Its last words:\n%s", err, strings.Join(said.last, "\n"))
		said, status, err = boot(t, ctx, vm)
	}
	ran := said.report(t)
	switch {
	case err != nil:
		t.Fatalf("%v; its last words:\n%s", err, strings.Join(said.last, "\n"))
	case ran == 0:
		t.Fatal("nothing ran in the virtual machine")
	case status != 0 && !t.Failed():
		t.Fatalf("the test in the virtual machine ended with status %d", status)
	}
}

func lacking(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// boot runs the machine once and returns what its tests said.
func boot(t *testing.T, ctx context.Context, vm lab.VM) (*guestOutput, int, error) {
	r, w := io.Pipe()
	done := make(chan *guestOutput)
	go func() { done <- readGuest(t, r) }()
	status, err := vm.Run(ctx, w)
	w.Close()
	return <-done, status, err
}

// wanted is -run for the guest: the cases of the test that -run names here, or
// all of them.
func wanted(test string) string {
	if f := flag.Lookup("test.run"); f != nil {
		if _, cases, ok := strings.Cut(f.Value.String(), "/"); ok {
			return "^" + test + "$/" + cases
		}
	}
	return "^" + test + "$"
}

// testBegins is the line of a test of the guest that speaks from now on, verdict that
// of one that has ended.
var testBegins = regexp.MustCompile(`^=== (?:NAME|RUN|CONT|PAUSE)\s+(\S+)`)
var verdict = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \((.*)\)$`)

// guestOutput is what the tests of a guest said.
type guestOutput struct {
	verdicts [][]string          // as the expression above finds them
	output   map[string][]string // by test
	last     []string            // lines, whoever's
}

// lastLines is how many lines tell why a machine went off.
const lastLines = 120

// readGuest reads what a guest prints until it is off.
func readGuest(t *testing.T, console io.Reader) *guestOutput {
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	g := &guestOutput{output: map[string][]string{}}
	current := ""
	for lines.Scan() {
		line := lines.Text()
		if testing.Verbose() {
			fmt.Fprintln(t.Output(), line)
		}
		if g.last = append(g.last, line); len(g.last) > lastLines {
			g.last = g.last[1:]
		}
		if m := testBegins.FindStringSubmatch(line); m != nil {
			current = m[1]
		} else if m := verdict.FindStringSubmatch(line); m != nil {
			g.verdicts = append(g.verdicts, m)
		} else {
			g.output[current] = append(g.output[current], line)
		}
	}
	return g
}

// report makes a subtest here of each one there, with what it printed, and returns
// how many ended.
func (g *guestOutput) report(t *testing.T) int {
	parents := map[string]bool{}
	for _, v := range g.verdicts {
		if i := strings.LastIndex(v[2], "/"); i >= 0 {
			parents[v[2][:i]] = true
		}
	}
	ran := 0
	for _, v := range g.verdicts {
		name, ok := strings.CutPrefix(v[2], t.Name()+"/")
		if !ok || parents[v[2]] {
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) {
			text := strings.Join(g.output[v[2]], "\n")
			switch v[1] {
			case "FAIL":
				t.Errorf("in the virtual machine, after %s:\n%s", v[3], text)
			case "SKIP":
				t.Skipf("in the virtual machine:\n%s", text)
			}
		})
	}
	return ran
}

// keepHooks has what the kernel of a virtual machine writes its own code for be there for as
// long as it runs: a hook of every kind, and a socket with ESP in UDP. It writes when the
// first of them comes and the last one goes, and an emulated processor that was not run for
// a while may then meet the instruction that keeps it out meanwhile, and not know it (an
// "Oops: int3", as in ip_rcv).
var keepHooks = sync.OnceValue(func() error {
	ns, err := lab.New().Add("hooks")
	if err != nil {
		return err
	}
	var chains strings.Builder
	for _, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
		fmt.Fprintf(&chains, "chain %[1]s { type filter hook %[1]s priority 0; }\n", hook)
	}
	if _, err := ns.Run(context.Background(), "nft", "table inet hooks {\n"+chains.String()+"}"); err != nil {
		return err
	}
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // of IPv4 too; the machine's end closes it
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_ENCAP, unix.UDP_ENCAP_ESPINUDP)
	})
})
