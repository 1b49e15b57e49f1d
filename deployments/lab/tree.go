package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// A Tree is a Debian system in a directory: peers of a newer release than the
// host's. `go run ./deployments/dev setup` makes them. The zero value is the
// host itself.
type Tree struct{ Root string }

// The trees that the tests know, by the peer that each is for.
const (
	TreeStrongSwan = "strongswan" // with ML-KEM
	TreeLibreswan  = "libreswan"
	TreeScapy      = "scapy" // its own ESP and AH
	// KernelDir stands beside the trees: a kernel that has ESP.
	KernelDir = "kernel"
	// KernelOldDir has the oldest that is supported, KernelNewDir a new one, and
	// KernelUbuntuDir one with ESP in TCP (RFC 9329) and with network interfaces that
	// imitate hardware for ESP.
	KernelOldDir, KernelNewDir, KernelUbuntuDir = "kernel-old", "kernel-new", "kernel-ubuntu"
)

// TreeDir is where the tree of that name is, or will be: in the cache of the
// user, not in the repository.
func TreeDir(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the place of the Debian trees: %w", err)
	}
	return filepath.Join(cache, "swanherd", "trees", name), nil
}

// OpenTree returns a tree that was made completely. An error says how to get
// it.
func OpenTree(name string) (Tree, error) {
	dir, err := TreeDir(name)
	if err != nil {
		return Tree{}, err
	}
	if _, err := os.Stat(dir + ".ready"); err != nil {
		return Tree{}, fmt.Errorf("no Debian tree with %s (%w); `go run ./deployments/dev setup` makes it", name, err)
	}
	return Tree{Root: dir}, nil
}

// NotToBeHad is in what a test says that skips because of CannotBeHad, so that it is
// told from one that skips although everything is there.
const NotToBeHad = "SKIPPED, as the setup could not get what it needs"

// CannotBeHad reports whether the setup tried in vain to make a tree that tests can
// do without, because another distribution than Debian has it.
func CannotBeHad(name string) bool {
	dir, err := TreeDir(name)
	if err != nil {
		return false
	}
	_, err = os.Stat(dir + ".missing")
	return err == nil
}

// TreeMount is where the directory of a program in a tree appears to it.
const TreeMount = "/run/lab"

// enterTree prepares a tree in a mount namespace of its own, so that nothing of
// it is seen outside and nothing is left, and runs a program in it.
const enterTree = `set -e
root=$0; dir=$1; shift
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/lab"
mount --bind "$dir" "$root/run/lab"
exec chroot "$root" "$@"`

// inside is where a program in the tree finds dir.
func (t Tree) inside(dir string) string {
	if t.Root == "" {
		return dir
	}
	return TreeMount
}

// Command is what runs a program in the tree, with dir at TreeMount; on the
// host it is the program.
func (t Tree) Command(dir string, argv ...string) []string {
	if t.Root == "" {
		return argv
	}
	return append([]string{"unshare", "--mount", "sh", "-c", enterTree, t.Root, dir}, argv...)
}

// Client is what runs a program of the tree on the host, with the libraries of
// the tree: for clients of a daemon that need none of its files.
func (t Tree) Client(program string, args ...string) ([]string, error) {
	find := func(pattern string) string {
		matches, err := filepath.Glob(filepath.Join(t.Root, pattern))
		if err != nil || len(matches) == 0 {
			return ""
		}
		return matches[0]
	}
	linker, libraries := find("usr/lib64/ld-linux-*.so.*"), find("usr/lib/*-linux-gnu")
	if linker == "" || libraries == "" {
		return nil, fmt.Errorf("run %s of %s: no dynamic linker, or no libraries", program, t.Root)
	}
	return append([]string{linker, "--library-path", libraries, filepath.Join(t.Root, program)}, args...), nil
}
