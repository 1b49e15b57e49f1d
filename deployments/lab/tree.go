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
	// KernelDir stands beside the trees: a kernel that has ESP.
	KernelDir = "kernel"
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

// treeDir is where the directory of a program in a tree appears to it.
const treeDir = "/run/lab"

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
	return treeDir
}

// argv runs a program in the tree that sees dir.
func (t Tree) argv(dir string, argv ...string) []string {
	if t.Root == "" {
		return argv
	}
	return append([]string{"unshare", "--mount", "sh", "-c", enterTree, t.Root, dir}, argv...)
}
