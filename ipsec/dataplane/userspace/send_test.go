package userspace

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestSendParked: who finds no room to send waits until there is some, or the plane closes.
func TestSendParked(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, far := &lane{fd: pair[0]}, pair[1]
	defer unix.Close(far)
	defer l.close()
	e, c, packet := &endpoint{}, &control{}, make([]byte, 100)
	fill := func() {
		for {
			switch errno := l.sendWait(e, packet, c, false); errno {
			case 0:
			case unix.EAGAIN:
				return
			default:
				t.Fatal(errno)
			}
		}
	}
	parked := make(chan unix.Errno)
	park := func() { parked <- l.sendWait(e, packet, c, true) }

	fill()
	go park()
	if _, err := unix.Read(far, make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	if errno := <-parked; errno != 0 {
		t.Errorf("%v although there is room", errno)
	}
	fill()
	go park()
	l.wake()
	if errno := <-parked; errno != unix.ECANCELED {
		t.Errorf("%v although the plane closes, want %v", errno, unix.ECANCELED)
	}
}
