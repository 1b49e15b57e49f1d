package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A VM is a machine with a kernel that has what the host's may lack: ESP. It
// runs one program and is gone. Processors are emulated, since a host that is a
// virtual machine itself seldom lets others run on its own: expect a tenth of
// the speed.
type VM struct {
	// Kernel is a directory with boot/vmlinuz-* and lib/modules, as
	// `go run ./deployments/dev setup` makes it.
	Kernel string
	// Modules are loaded at first, with what they need.
	Modules []string
	// Disks are images of file systems: the root, and what is mounted on
	// /disk2. Nothing is written to them.
	Disks []string
	// Program runs in the root, with Args and the environment Env.
	Program   string
	Args, Env []string
	// Files are further programs, in /run.
	Files    []string
	MemoryMB int
	CPUs     int
}

// ErrKernelPanic says that the machine's kernel gave up. An emulated processor may be
// the reason, as well as what the program asked of the kernel.
var ErrKernelPanic = errors.New("the kernel of the virtual machine panicked")

// Run boots the machine and waits until it is off. What it prints goes to
// console. The error says that it did not get as far as the program's end; the
// status is the program's.
func (v VM) Run(ctx context.Context, console io.Writer) (status int, err error) {
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	kernels, err := filepath.Glob(filepath.Join(v.Kernel, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return 0, fmt.Errorf("find the kernel in %s: %d there", v.Kernel, len(kernels))
	}
	initrd := filepath.Join(dir, "initrd")
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := v.writeInitrd(ctx, dir, initrd, release); err != nil {
		return 0, fmt.Errorf("make initrd: %w", err)
	}
	argv := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-m", strconv.Itoa(v.MemoryMB), "-smp", strconv.Itoa(v.CPUs),
		"-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", kernels[0], "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 oops=panic softlockup_panic=1 watchdog_thresh=60 tsc=unstable clocksource=hpet mitigations=off random.trust_cpu=on",
	}
	for _, d := range v.Disks {
		argv = append(argv, "-drive", "file="+d+",if=virtio,format=raw,snapshot=on")
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", argv...)
	// It goes when we go, by a signal that is tied to this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	qemu.Env = append(os.Environ(), "TMPDIR="+dir) // what the disks would have changed
	out, err := qemu.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var complaints bytes.Buffer
	qemu.Stderr = &complaints
	if err := qemu.Start(); err != nil {
		return 0, err
	}
	status, ended, panicked := readConsole(out, console)
	if err := qemu.Wait(); err != nil {
		return status, fmt.Errorf("virtual machine: %w: %s", err, complaints.String())
	}
	if panicked && !ended {
		return status, ErrKernelPanic
	}
	if !ended {
		return status, errors.New("the virtual machine went off before its program ended")
	}
	return status, nil
}

// readConsole copies what the machine prints, and finds the status in it, or the
// kernel's last word.
func readConsole(from io.Reader, to io.Writer) (status int, ended, panicked bool) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		fmt.Fprintln(to, line)
		if _, why, is := strings.Cut(line, "Kernel panic - not syncing: "); is {
			// Where a processor hangs in the kernel is told so that it is looked into.
			panicked = panicked || !strings.HasPrefix(why, "softlockup")
		}
		if text, ok := strings.CutPrefix(line, "vminit: exit status "); ok {
			if n, err := strconv.Atoi(text); err == nil {
				status, ended = n, true
			}
		}
	}
	return status, ended, panicked
}

// writeInitrd packs the first process, the modules and the program.
func (v VM) writeInitrd(ctx context.Context, dir, file, release string) error {
	init := filepath.Join(dir, "init")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", init, "github.com/swanherd/swanherd/deployments/lab/vminit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build its first process: %w: %s", err, out)
	}
	modules, err := v.moduleFiles(release)
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	a := archive{w: bufio.NewWriter(out)}
	a.addFile("init", init, 0o755)
	a.addFile("program", v.Program, 0o755)
	for _, f := range v.Files {
		a.addFile(guestFile+filepath.Base(f), f, 0o755)
	}
	a.add("arguments", 0o644, []byte(strings.Join(slices.Concat(v.Env, v.Args), "\n")+"\n"))
	var list strings.Builder
	for i, m := range modules {
		// The order and the ending are all that matters of the name.
		name := fmt.Sprintf("module%d%s", i, m[strings.Index(filepath.Base(m), ".ko")+len(m)-len(filepath.Base(m)):])
		a.addFile(name, m, 0o644)
		fmt.Fprintf(&list, "/%s\n", name)
	}
	a.add("modules", 0o644, []byte(list.String()))
	a.add("TRAILER!!!", 0, nil)
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return errors.Join(a.err, out.Close())
}

// moduleFiles are the files of the modules and of what they need, that first.
func (v VM) moduleFiles(release string) ([]string, error) {
	root := filepath.Join(v.Kernel, "lib/modules", release)
	text, err := os.ReadFile(filepath.Join(root, "modules.dep"))
	if err != nil {
		return nil, err
	}
	files, needs := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(string(text)) {
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		files[moduleName(file)] = file
		for _, f := range strings.Fields(rest) {
			needs[moduleName(file)] = append(needs[moduleName(file)], moduleName(f))
		}
	}
	var order []string
	var add func(name string)
	add = func(name string) {
		file, there := files[name]
		if file = filepath.Join(root, file); !there || slices.Contains(order, file) {
			return // what is no module is built in, or its absence is found by who needs it
		}
		// modprobe's order: the last one named is needed first.
		for _, n := range slices.Backward(needs[name]) {
			add(n)
		}
		order = append(order, file)
	}
	for _, name := range v.Modules {
		add(moduleName(name))
	}
	return order, nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// guestFile begins the name of what goes to /run.
const guestFile = "run-"

// archive writes what the kernel unpacks: cpio in the format "newc".
type archive struct {
	w    *bufio.Writer
	n    int
	node int
	err  error
}

func (a *archive) addFile(name, file string, mode uint32) {
	content, err := os.ReadFile(file)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.add(name, mode, content)
}

func (a *archive) add(name string, mode uint32, content []byte) {
	const regular = 0o100000
	a.node++
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.node, regular|mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(content)
	a.pad()
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
	a.n += len(b)
}

func (a *archive) pad() { a.write(make([]byte, -a.n&3)) }
