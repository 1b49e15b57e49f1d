package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A link passes connections to one address on, unless it is cut: for all, or for one
// process.
type link struct {
	to     string
	listen net.Listener

	mu    sync.Mutex
	cut   func(pid int) bool // nil: not cut
	conns map[net.Conn]int   // both sides of each connection, with the process it is of
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{to: to, listen: lis, conns: map[net.Conn]int{}}
	t.Cleanup(func() { lis.Close(); l.set(everybody) })
	go l.run()
	return l
}

func everybody(int) bool { return true }

func (l *link) run() {
	for {
		in, err := l.listen.Accept()
		if err != nil {
			return
		}
		pid := ownerOf(in.RemoteAddr().(*net.TCPAddr), in.LocalAddr().(*net.TCPAddr))
		out, err := net.Dial("tcp", l.to)
		if err != nil {
			in.Close()
			continue
		}
		l.mu.Lock()
		if l.cut != nil && (pid == 0 || l.cut(pid)) { // whoever it was tries again
			in.Close()
			out.Close()
		} else {
			l.conns[in], l.conns[out] = pid, pid
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				}()
			}
		}
		l.mu.Unlock()
	}
}

// set cuts the link for the processes that cut is true of, with all of theirs that runs
// over it; nil mends it.
func (l *link) set(cut func(pid int) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for c, pid := range l.conns {
		if cut != nil && (pid == 0 || cut(pid)) {
			c.Close()
			delete(l.conns, c)
		}
	}
}

// ownerOf is the process on this host that has a connection from one address of loopback
// to another, by what the kernel tells (proc(5)); 0 if none was found.
func ownerOf(from, to *net.TCPAddr) int {
	tcp, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0
	}
	socket := ""
	ends := fmt.Sprintf(" 0100007F:%04X 0100007F:%04X ", from.Port, to.Port)
	for line := range strings.Lines(string(tcp)) {
		if f := strings.Fields(line); strings.Contains(line, ends) && len(f) > 9 {
			socket = "socket:[" + f[9] + "]"
		}
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, file := range files {
		if what, err := os.Readlink(file); err == nil && what == socket {
			var pid int
			_, _ = fmt.Sscanf(file, "/proc/%d/", &pid)
			return pid
		}
	}
	return 0
}

func cutAll(links []*link, cut func(pid int) bool) {
	for _, l := range links {
		l.set(cut)
	}
}
