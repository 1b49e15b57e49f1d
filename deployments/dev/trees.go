package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/deployments/lab"
)

// A tree is a Debian system in a directory, with a peer that is newer than the
// host's, for tests of interoperation.
type tree struct {
	name     string   // lab.TreeDir knows the place
	releases []string // the first that can be had
	packages []string
	version  string // of which package the version is noted
}

func trees() []tree {
	return []tree{
		{
			// 6.1.0 in sid (forky) has ML-KEM, through OpenSSL 3.5; trixie's
			// 6.0.1 has RFC 9370 and no ML-KEM.
			lab.TreeStrongSwan,
			[]string{"sid", "trixie"},
			[]string{"strongswan-swanctl", "charon-systemd", "libcharon-extra-plugins", "libstrongswan-extra-plugins", "iproute2", "nftables"},
			"charon-systemd",
		},
		{
			lab.TreeLibreswan,
			[]string{"trixie"},
			// libreswan depends on "host", which debootstrap does not resolve.
			[]string{"libreswan", "bind9-host", "libnss3-tools", "openssl", "iproute2", "nftables"},
			"libreswan",
		},
		{
			lab.TreeScapy,
			[]string{"trixie"},
			[]string{"python3-scapy", "python3-cryptography", "python3-cffi-backend"}, // the last by another name
			"python3-scapy",
		},
	}
}

// mirror is where Debian is fetched from.
func mirror() string {
	if m := os.Getenv("SWANHERD_DEBIAN_MIRROR"); m != "" {
		return m
	}
	return "http://deb.debian.org/debian"
}

// setupTrees makes the trees that are missing, which takes about a minute, and
// what a virtual machine needs to run on them.
func setupTrees(ctx context.Context) error {
	for _, t := range trees() {
		dir, err := lab.TreeDir(t.name)
		if err != nil {
			return err
		}
		if noted, err := os.ReadFile(dir + ".ready"); err == nil && strings.HasSuffix(string(noted), t.contents()) {
			fmt.Printf("%s: %s", t.name, noted)
			continue
		}
		if err := t.make(ctx, dir); err != nil {
			return fmt.Errorf("make Debian tree with %s: %w", t.name, err)
		}
	}
	return setupKernels(ctx)
}

// contents is noted so that a tree with other packages is made anew.
func (t tree) contents() string { return "with " + strings.Join(t.packages, " ") + "\n" }

// make fetches the first release that can be had, and notes what it was when
// everything is there.
func (t tree) make(ctx context.Context, dir string) error {
	os.Remove(dir + ".ready")
	var failed error
	for _, release := range t.releases {
		if err := run0(ctx, "rm", "-rf", dir); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		failed = run0(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(t.packages, ","), release, dir, mirror())
		if failed != nil {
			fmt.Printf("%s cannot be had from %s: %v\n", t.name, release, failed)
			continue
		}
		// An image for virtual machines, with room for what they write.
		if err := run0(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, dir+".img", "600M"); err != nil {
			return err
		}
		version, err := output(ctx, "chroot", dir, "dpkg-query", "--show", t.version)
		if err != nil {
			return err
		}
		return os.WriteFile(dir+".ready", []byte(fmt.Sprintf("%s, %s%s", release, version, t.contents())), 0o644)
	}
	return failed
}

// run0 runs a command as root.
func run0(ctx context.Context, argv ...string) error {
	return command(ctx, "", slices.Concat(sudo(), argv)...)
}

func output(ctx context.Context, argv ...string) ([]byte, error) {
	argv = slices.Concat(sudo(), argv)
	return exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
}

// sudo is what makes a command run as root.
func sudo() []string {
	if os.Geteuid() != 0 {
		return []string{"sudo"}
	}
	return nil
}
