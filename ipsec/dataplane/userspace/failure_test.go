package userspace

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An interface that somebody removes is told, so that the agent can start anew
// rather than drop everything for good.
func TestInterfaceRemoved(t *testing.T) {
	needNamespaces(t)
	ns := newNamespace(t)
	p := ns.plane(t, Config{Interface: "gone0"})
	ns.ip("link del gone0")
	select {
	case err := <-p.Failed():
		if !errors.Is(err, unix.EBADFD) {
			t.Errorf("failed with %v, want EBADFD", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is told of the missing interface")
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	select {
	case err := <-p.Failed():
		t.Errorf("Close counts as a failure: %v", err)
	default:
	}
}

// A socket that cannot be read for a while does not end the receiver.
func TestReceiverOutlivesErrors(t *testing.T) {
	// Not connected, this one gives ENOTCONN to every read.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	from, err := openIntake()
	if err != nil {
		t.Fatal(err)
	}
	defer from.close()
	if err := from.add(fd); err != nil {
		t.Fatal(err)
	}
	p := &Plane{
		logger: slog.New(slog.DiscardHandler), insides: []*inside{{device: &device{intakes: []*intake{{queues: []int{-1}}}, outlet: -1}}}, socket: &socket{},
		inbound: newSPITable(), failed: make(chan error, 2),
	}
	r := newReceiver(p, from, &inbox{}, 0)
	p.running.Go(r.run)
	deadline := time.Now().Add(10 * time.Second)
	for p.Drops().ReceiveErrors < 3 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	if n := p.Drops().ReceiveErrors; n < 3 {
		t.Errorf("%d errors of the socket, want it to be read again and again", n)
	}
	p.stop.Store(true)
	p.running.Wait()
	if len(p.failed) != 0 {
		t.Errorf("failed with %v", <-p.failed)
	}
}
