package xfrm

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestOthers: what the plane does itself is not heard, or each of its changes would have it
// look at all that is in the kernel; what others do is.
func TestOthers(t *testing.T) {
	var own, other *conn
	var heard *others
	if err := inNewNamespace(func() (err error) {
		if own, err = openConn(); err != nil {
			return err
		}
		t.Cleanup(own.close)
		if other, err = openConn(); err != nil {
			return err
		}
		t.Cleanup(other.close)
		if heard, err = openOthers(own); err == nil {
			t.Cleanup(func() { heard.file.Close() })
		}
		return err
	}); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skipf("SKIPPED, so not run: no network namespace with IPsec: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	block := policy{
		direction: directionOut, action: actionBlock, ifID: interfaceID,
		selector: selector{source: netip.MustParsePrefix("10.0.0.0/8"), destination: netip.MustParsePrefix("10.1.0.0/16")},
	}
	for _, tt := range []struct {
		by   *conn
		does request
		want []uint16
	}{
		{own, block.set(), nil},
		{own, block.ask(nl.XFRM_MSG_DELPOLICY), nil},
		{other, block.set(), []uint16{nl.XFRM_MSG_UPDPOLICY}},
		{own, block.set(), nil},
		{other, block.ask(nl.XFRM_MSG_DELPOLICY), []uint16{nl.XFRM_MSG_DELPOLICY}},
	} {
		kind := tt.does.kind
		if _, err := tt.by.do(tt.does); err != nil {
			t.Fatal(err)
		}
		var got []uint16 // the kernel has told it before it acknowledged
		var err error
		for err == nil {
			err = heard.receive(func(h header, _ []byte) { got = append(got, h.kind) })
		}
		if !errors.Is(err, unix.EAGAIN) || len(got) != len(tt.want) || len(got) > 0 && got[0] != tt.want[0] {
			t.Errorf("message %#x by another: %v: heard %#x (%v), want %#x", kind, tt.by == other, got, err, tt.want)
		}
	}
}

// inNewNamespace calls f in a network namespace of its own, which ends with what f opened.
func inNewNamespace(f func() error) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		failed <- err
	}()
	return <-failed
}
