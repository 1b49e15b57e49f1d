package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A need is a program that tests run, and the Debian package that has it.
type need struct {
	file string // looked up in PATH, or an absolute path
	pkg  string
	why  string
}

func needs() []need {
	return []need{
		{"ip", "iproute2", "network namespaces"},
		{"ping", "iputils-ping", "traffic through tunnels"},
		{"nft", "nftables", "NAT and loss on emulated links"},
		{"iperf3", "iperf3", "throughput comparisons"},
		{"swanctl", "strongswan-swanctl", "interoperability"},
		{"/usr/sbin/charon-systemd", "charon-systemd", "interoperability"},
		{"/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins", "a peer with userspace ESP"},
		{"/usr/lib/ipsec/plugins/libstrongswan-curve25519.so", "libstrongswan-extra-plugins", "a peer with X25519"},
		{"/usr/lib/ipsec/plugins/libstrongswan-openssl.so", "libstrongswan-standard-plugins", "a peer with AES-GCM and ECDSA"},
		{"tshark", "tshark", "the key log, read by Wireshark"},
		{"debootstrap", "debootstrap", "peers newer than the host's"},
		{"mke2fs", "e2fsprogs", "their disks in virtual machines"},
		{"depmod", "kmod", "a kernel with ESP in virtual machines"},
		{"qemu-system-x86_64", "qemu-system-x86", "a kernel with ESP"},
		{"swtpm", "swtpm", "edges whose key is in a TPM"},
		{"chromium", "chromium", "dashboard tests"},
	}
}

func (n need) present() bool {
	if strings.HasPrefix(n.file, "/") {
		_, err := os.Stat(n.file)
		return err == nil
	}
	_, err := exec.LookPath(n.file)
	return err == nil
}

func runSetup(ctx context.Context, _ []string) error {
	if err := setupPackages(ctx); err != nil {
		return err
	}
	if err := setupTrees(ctx); err != nil {
		return err
	}
	if err := setupPeers(ctx); err != nil {
		return err
	}
	return setupUI(ctx)
}

// setupPeers fetches the modules of peers that are programs of Go, and compiles them, so that
// the tests only link them. They are in modules of their own.
func setupPeers(ctx context.Context) error {
	for _, dir := range []string{"deployments/dev/provider", "deployments/dev/stepca"} {
		if err := command(ctx, "", "go", "build", "-C", dir, "-o", os.DevNull, "."); err != nil {
			return fmt.Errorf("build %s: %w", dir, err)
		}
	}
	return nil
}

// setupPackages installs the missing Debian packages. Services that come with
// them are not started: tests start their own, in namespaces of their own.
func setupPackages(ctx context.Context) error {
	var missing []string
	for _, n := range needs() {
		if !n.present() {
			fmt.Printf("missing: %s (%s), for %s\n", n.file, n.pkg, n.why)
			missing = append(missing, n.pkg)
		}
	}
	if _, err := exec.LookPath("npm"); err != nil {
		missing = append(missing, "nodejs", "npm")
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this system has no apt-get; install what corresponds to the Debian packages %s by hand", strings.Join(missing, " "))
	}
	// A package that starts its daemon would take the host's IKE ports.
	mask := slices.Concat(sudo(), []string{"sh", "-c", `[ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; }`})
	update := slices.Concat(sudo(), []string{"apt-get", "-qq", "update"})
	install := slices.Concat(sudo(), []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends", "install"}, missing)
	for _, argv := range [][]string{mask, update, install} {
		if err := command(ctx, "", argv...); err != nil {
			return fmt.Errorf("%w; install %s by hand and run this again", err, strings.Join(missing, " "))
		}
	}
	return nil
}
