// Command vminit is the first process of a virtual machine that lab.VM boots.
// It loads the kernel modules that came along, makes the first disk the root,
// runs the program that came along in it, tells its exit status on the console
// and switches the machine off.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	status := 125
	if err := prepare(); err != nil {
		fmt.Println("vminit:", err)
	} else {
		status = run()
	}
	fmt.Printf("vminit: exit status %d\n", status)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("vminit: power off:", err)
	}
}

// prepare ends in the root of the first disk.
func prepare() error {
	if err := mountAll("", []mount{{"proc", "proc"}, {"sysfs", "sys"}, {"devtmpfs", "dev"}}); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := os.Mkdir("/disk", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", "/disk", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount the first disk: %w", err)
	}
	if err := mountAll("/disk", []mount{{"proc", "proc"}, {"sysfs", "sys"}, {"devtmpfs", "dev"}, {"tmpfs", "run"}, {"tmpfs", "tmp"}}); err != nil {
		return err
	}
	more, err := filepath.Glob("/run-*")
	if err != nil {
		return err
	}
	for _, file := range append([]string{"/program", "/arguments"}, more...) {
		if err := copyFile(file, "/disk/run/"+strings.TrimPrefix(file[1:], "run-")); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/vdb"); err == nil {
		if err := os.MkdirAll("/disk/disk2", 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/dev/vdb", "/disk/disk2", "ext4", 0, ""); err != nil {
			return fmt.Errorf("mount the second disk: %w", err)
		}
	}
	if err := unix.Chdir("/disk"); err != nil {
		return err
	}
	// The first root cannot be left by pivot_root (see mount --move in switch_root(8)).
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

type mount struct{ kind, at string }

func mountAll(root string, mounts []mount) error {
	for _, m := range mounts {
		at := root + "/" + m.at
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// loadModules loads the files that a list names, in its order.
func loadModules(list string) error {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if err := loadModule(lines.Text()); err != nil {
			fmt.Printf("vminit: module %s: %v\n", lines.Text(), err)
		}
	}
	return nil
}

func loadModule(file string) error {
	m, err := os.Open(file)
	if err != nil {
		return err
	}
	defer m.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(m.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// run runs the program with its arguments and environment, one a line; those
// with a "=" before the first "-" are of the environment.
func run() int {
	text, err := os.ReadFile("/run/arguments")
	if err != nil {
		fmt.Println("vminit:", err)
		return 125
	}
	cmd := exec.Command("/run/program")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "-") {
			cmd.Env = append(cmd.Env, line)
			continue
		}
		cmd.Args = append(cmd.Args, line)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Println("vminit: run the program:", err)
	return 125
}
