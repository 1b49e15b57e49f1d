package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/swanherd/swanherd/deployments/lab"
)

// A kernel is for virtual machines. Fetch is a shell script, for the tree with
// libreswan, that leaves its packages in /tmp.
type kernel struct {
	name, why, fetch string
	// optional is a kernel that tests can do without; see lab.CannotBeHad.
	optional bool
}

func kernels() []kernel {
	return []kernel{
		{
			name: lab.KernelDir, why: "with ESP",
			fetch: `apt-get -qq update
apt-get -qq download "$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p')"`,
		},
		{
			name: lab.KernelOldDir, why: "as old as is supported",
			fetch: debianKernel("bookworm"),
		},
		{
			// What is newest today may not boot tomorrow.
			name: lab.KernelNewDir, why: "that is new", optional: true,
			fetch: debianKernel("sid"),
		},
		{
			// Debian's have neither CONFIG_INET_ESPINTCP nor CONFIG_NETDEVSIM.
			name: lab.KernelUbuntuDir, why: "with ESP in TCP, and interfaces that imitate hardware for ESP", optional: true,
			fetch: `apt-get -qq update
apt-get -qq -y --no-install-recommends install ubuntu-keyring
mkdir -p ubuntu/lists/partial
echo "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] ` + ubuntuMirror() + ` noble-updates main" >ubuntu/sources.list
options="-o Dir::Etc::SourceList=/tmp/ubuntu/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=/tmp/ubuntu/lists -o Dir::Cache=/tmp/ubuntu -o Acquire::Languages=none"
apt-get -qq $options update
release="$(apt-cache $options depends linux-image-virtual | sed -n 's/.*Depends: linux-image-//p')"
apt-get -qq $options download "linux-image-$release" "linux-modules-$release" "linux-modules-extra-$release"`,
		},
	}
}

// debianKernel fetches the kernel of another release than the tree's own. It is signed;
// mirrors may be behind.
func debianKernel(release string) string {
	return `mkdir -p debian/lists/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ` + mirror() + ` ` + release + ` main" >debian/sources.list
options="-o Dir::Etc::SourceList=/tmp/debian/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=/tmp/debian/lists -o Dir::Cache=/tmp/debian -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false"
apt-get -qq $options update
release="$(apt-cache $options depends linux-image-cloud-amd64 | sed -n 's/.*Depends: linux-image-//p')"
packages="linux-image-$release"
for more in "linux-base-$release" "linux-binary-$release" "linux-modules-$release"; do # of newer ones
  if apt-cache $options show "$more" >more 2>&1; then packages="$packages $more"; fi
done
apt-get -qq $options download $packages`
}

// ubuntuMirror is where Ubuntu is fetched from.
func ubuntuMirror() string {
	if m := os.Getenv("SWANHERD_UBUNTU_MIRROR"); m != "" {
		return m
	}
	return "http://archive.ubuntu.com/ubuntu"
}

// setupKernels fetches the kernels that are missing.
func setupKernels(ctx context.Context) error {
	for _, k := range kernels() {
		dir, err := lab.TreeDir(k.name)
		if err != nil {
			return err
		}
		if noted, err := os.ReadFile(dir + ".ready"); err == nil {
			fmt.Printf("%s: %s", k.name, noted)
			continue
		}
		os.Remove(dir + ".missing")
		err = k.make(ctx, dir)
		if err != nil && k.optional {
			fmt.Printf("no kernel %s, so what needs it is NOT TESTED: %v\n", k.why, err)
			err = os.WriteFile(dir+".missing", nil, 0o644)
		}
		if err != nil {
			return fmt.Errorf("make a kernel %s: %w", k.why, err)
		}
	}
	return nil
}

// make unpacks the kernel; it is not installed, as it takes no part in the tree.
func (k kernel) make(ctx context.Context, dir string) error {
	root, err := lab.TreeDir(lab.TreeLibreswan)
	if err != nil {
		return err
	}
	if err := run0(ctx, "chroot", root, "sh", "-c", "set -e; cd /tmp; rm -rf *\n"+k.fetch); err != nil {
		return fmt.Errorf("fetch it: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(root, "tmp", "linux-*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("fetch it: found %v, want packages", debs)
	}
	if err := run0(ctx, "rm", "-rf", dir); err != nil {
		return err
	}
	for _, deb := range debs {
		if err := run0(ctx, "dpkg-deb", "-x", deb, dir); err != nil {
			return err
		}
	}
	if err := run0(ctx, "sh", "-c", "rm -rf "+filepath.Join(root, "tmp")+"/*"); err != nil {
		return err
	}
	// depmod looks for lib/modules, which newer packages have in usr.
	if _, err := os.Stat(filepath.Join(dir, "lib")); err != nil {
		if err := run0(ctx, "ln", "-sfn", "usr/lib", filepath.Join(dir, "lib")); err != nil {
			return err
		}
	}
	modules, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(modules) != 1 {
		return fmt.Errorf("found modules %v, want those of one kernel", modules)
	}
	release := filepath.Base(modules[0])
	image := filepath.Join(dir, "boot", "vmlinuz-"+release)
	commands := [][]string{
		{"depmod", "-b", dir, release},
		{"chmod", "a+r", image}, // Ubuntu's are root's alone
	}
	if _, err := os.Stat(image); err != nil { // newer packages have it beside the modules
		commands = append([][]string{{"mkdir", "-p", filepath.Dir(image)}, {"cp", filepath.Join(modules[0], "vmlinuz"), image}}, commands...)
	}
	for _, argv := range commands {
		if err := run0(ctx, argv...); err != nil {
			return err
		}
	}
	return os.WriteFile(dir+".ready", []byte(release+"\n"), 0o644)
}
