package lab_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// guestEnv is set in a virtual machine.
const guestEnv = "SWANHERD_GUEST"

func inGuest() bool { return os.Getenv(guestEnv) != "" }

// kernelModules are what the gateways in a virtual machine need.
var kernelModules = []string{
	"virtio_pci", "virtio_blk", "ext4", "tun", "veth", "af_packet",
	"xfrm_user", "xfrm_interface", "esp4", "esp6", "ah4", "ah6", "af_key",
	"gcm", "ccm", "seqiv", "ghash_generic", "aesni_intel", "ghash_clmulni_intel", "chacha20poly1305", "chacha", "chacha_generic", "poly1305_generic",
	"cbc", "ctr", "xcbc", "hmac", "sha256_generic", "sha512_generic", "authenc", "authencesn", "echainiv", "cryptd", "drbg", "jitterentropy_rng", "aes_generic",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_reject_inet", "nf_conntrack_netlink",
}

// TestInteropKernel runs our engine against strongSwan with the kernel's ESP,
// which has what charon's own lacks. The host's kernel may have none, so it runs
// in a virtual machine.
func TestInteropKernel(t *testing.T) {
	if inGuest() {
		runCases(t, kernelCases(), newKernelCharonPeer)
		return
	}
	runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
}

// TestInteropQueues has several Child SAs share the traffic of the same selectors (RFC
// 9611) with strongSwan, which has one for all of its processors and one for each of
// the two: as many as we have. Its kernel wants one for each that sends.
func TestInteropQueues(t *testing.T) {
	if inGuest() {
		runCases(t, []interopCase{{name: "queues", queues: 3, native: true, child: "        per_cpu_sas = yes", steps: eachRekey()}}, newKernelCharonPeer)
		return
	}
	runInGuest(t, lab.KernelNewDir, lab.TreeStrongSwan)
}

// newKernelCharonPeer is the strongSwan of the root.
func newKernelCharonPeer(x *run) peer {
	p := newCharonPeer(lab.Tree{})(x).(*charonPeer)
	p.config.KernelESP = true
	return p
}

// runInGuest runs the test that calls it, and no other, in a virtual machine with
// that kernel and with the trees as disks, and reports its subtests here.
func runInGuest(t *testing.T, kernelDir string, trees ...string) {
	runInGuestWith(t, nil, kernelDir, trees...)
}

// runInGuestWith does so with further programs in /run.
func runInGuestWith(t *testing.T, files func() []string, kernelDir string, trees ...string) {
	if testing.Short() {
		return // with the race detector it would take very long
	}
	lab.Require(t, "qemu-system-x86_64")
	vm := lab.VM{
		Modules: kernelModules, MemoryMB: 1024, CPUs: 2,
		Args: []string{"-test.v", "-test.run=" + wanted(t.Name()), "-test.timeout=15m", "-test.parallel=3"},
		Env:  []string{guestEnv + "=1", "SWANHERD_INTEROP=" + os.Getenv("SWANHERD_INTEROP")},
	}
	if files != nil {
		vm.Files = files()
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
	r, w := io.Pipe()
	done := make(chan int)
	go func() { done <- reportGuest(t, r) }()
	status, err := vm.Run(ctx, w)
	w.Close()
	ran := <-done
	switch {
	case err != nil:
		t.Fatal(err)
	case ran == 0:
		t.Fatal("nothing ran in the virtual machine")
	case status != 0 && !t.Failed():
		t.Fatalf("the test in the virtual machine ended with status %d", status)
	}
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

// verdict is a line of a test of the guest that has ended.
var verdict = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \((.*)\)$`)

// reportGuest makes a subtest here of each one there, with what it printed, and
// returns how many ended.
func reportGuest(t *testing.T, console io.Reader) int {
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	ran := 0
	current := ""
	output := map[string][]string{}
	var verdicts [][]string
	for lines.Scan() {
		line := lines.Text()
		if testing.Verbose() {
			fmt.Fprintln(t.Output(), line)
		}
		if m := regexp.MustCompile(`^=== (?:NAME|RUN|CONT|PAUSE)\s+(\S+)`).FindStringSubmatch(line); m != nil {
			current = m[1]
			continue
		}
		if m := verdict.FindStringSubmatch(line); m != nil {
			verdicts = append(verdicts, m)
			continue
		}
		output[current] = append(output[current], line)
	}
	parents := map[string]bool{}
	for _, v := range verdicts {
		if i := strings.LastIndex(v[2], "/"); i >= 0 {
			parents[v[2][:i]] = true
		}
	}
	for _, v := range verdicts {
		name, ok := strings.CutPrefix(v[2], t.Name()+"/")
		if !ok || parents[v[2]] {
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) {
			text := strings.Join(output[v[2]], "\n")
			switch v[1] {
			case "FAIL":
				t.Errorf("in the virtual machine, after %s:\n%s", v[3], text)
			case "SKIP":
				t.Skipf("in the virtual machine:\n%s", text)
			}
		})
	}
	if ran == 0 {
		t.Logf("the virtual machine said:\n%s", strings.Join(output[""], "\n"))
	}
	return ran
}

// kernelCases need the kernel's ESP at the peer.
func kernelCases() []interopCase {
	return slices.Concat(
		each(interopCase{name: "esn", esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "esn, aes-cbc, crossing rekeys", esp: "aes256-sha256-x25519-esn", steps: []step{crossing(rekeysChild, rekeysChild), crossing(rekeysIKE, rekeysIKE)}}),
		each(interopCase{name: "esn, both behind NAT", esp: "chacha20poly1305-x25519-esn", nat: [2]bool{true, true}, tunnel: func(c *engine.TunnelConfig) { c.ForceEncap = false }, steps: []step{rekeyChild(theirs), rekeyIKE(ours)}}),
		each(interopCase{name: "hybrid, certificates", auth: "ed25519+ecdsa384", ike: "aes256gcm16-prfsha384-x25519-ke1_mlkem768", esp: "aes256gcm16-x25519-ke1_mlkem768-esn", steps: []step{rekeyIKE(theirs), rekeyChild(ours)}}),
		[]interopCase{
			{name: "rekeyed by packets", initiates: theirs, child: "        rekey_packets = 100\n        life_packets = 1000000\n        rand_packets = 0", steps: []step{childRekeyed(1)}},
			{
				name: "internal address/given by ours", initiates: theirs, conn: "    vips = 0.0.0.0", child: "        local_ts = dynamic",
				tunnel: func(c *engine.TunnelConfig) {
					pool, err := ike.NewPool(netip.MustParsePrefix("10.2.0.2/32"))
					if err != nil {
						panic(err)
					}
					c.InternalOffer = &ike.InternalOffer{Pool: pool, DNS: []netip.Addr{netip.MustParseAddr("10.1.0.53")}, Required: true}
				},
				before: []step{theirRoute()},
				steps:  append(eachRekey(), internal("10.2.0.2", "10.1.0.53"), selectors("10.1.0.0/24", "10.2.0.2/32")),
			},
		},
		mobikeCases(),
		bothKernelCases(),
		nativeCases(),
	)
}

// nativeCases have ours in user space without UDP, and theirs of the kernel.
func nativeCases() []interopCase {
	cases := slices.Concat(
		each(interopCase{name: "native/esn", esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/peer inside", steps: append([]step{peerInside()}, eachRekey()...)}),
		each(interopCase{name: "native/aes-cbc", esp: "aes128-sha256-x25519", steps: eachRekey()}),
		each(interopCase{name: "native/transport", transport: true, esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/ah", esp: "ah-sha256-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/ah transport", transport: true, esp: "ah-sha512-x25519", steps: eachRekey()}),
	)
	for i := range cases {
		cases[i].native = true
	}
	return slices.Concat(cases,
		each(interopCase{name: "native/transport in UDP", transport: true, esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/transport behind NAT", transport: true, nat: [2]bool{true, true}, steps: eachRekey()}),
	)
}

// bothKernelCases have the kernel's ESP and AH at both ends.
func bothKernelCases() []interopCase {
	cases := slices.Concat(
		each(interopCase{name: "kernel/esn", esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/aes-cbc", esp: "aes128-sha256-x25519", steps: []step{crossing(rekeysChild, rekeysChild), crossing(rekeysIKE, rekeysIKE)}}),
		each(interopCase{name: "kernel/both behind NAT", nat: [2]bool{true, true}, steps: []step{rekeyChild(theirs), rekeyIKE(ours)}}),
		each(interopCase{name: "kernel/transport", transport: true, esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/transport behind NAT", transport: true, nat: [2]bool{true, true}, steps: eachRekey()}),
		each(interopCase{name: "kernel/peer inside", steps: append([]step{peerInside()}, eachRekey()...)}),
		each(interopCase{name: "kernel/gmac", esp: "aes256gmac-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/ah", esp: "ah-sha256-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/ah transport", transport: true, esp: "ah-sha512-x25519", steps: eachRekey()}),
	)
	for i := range cases {
		cases[i].kernel = true
	}
	return cases
}
