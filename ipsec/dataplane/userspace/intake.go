package userspace

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queuesOfIntake is among how many queues the kernel spreads what one transmitter sends,
// and what one receiver receives of ESP.
const queuesOfIntake = 8

// intake is what one goroutine serves in turn: queues of a TUN interface, or sockets. The
// kernel has all packets of a flow, or of an SA, go to one of them, and drops what finds it
// full: a flood takes the room of those alone that share its queue, as in stochastic
// fairness queueing (McKenney, INFOCOM 1990).
type intake struct {
	queues []int // descriptors
	// fd is an epoll set of the queues, which the runtime's poller takes for one file.
	// A queue that was found ready is disarmed in it until it is empty: what comes
	// meanwhile wakes nobody.
	fd   int
	file *os.File // owns fd; used to park in the poller
	conn syscall.RawConn

	ready   []int // queues in the order of their turns
	events  [queuesOfIntake + 1]unix.EpollEvent
	errno   unix.Errno
	tryLook func(uintptr) bool
}

// openIntake makes one without queues.
func openIntake() (*intake, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	// The poller takes what does not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make an epoll set that does not block: %w", err)
	}
	in := &intake{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), ready: make([]int, 0, queuesOfIntake+1)}
	if in.conn, err = in.file.SyscallConn(); err != nil {
		in.file.Close()
		return nil, fmt.Errorf("poll an epoll set: %w", err)
	}
	in.tryLook = func(uintptr) bool {
		in.look()
		return len(in.ready) > 0 || in.errno != 0
	}
	return in, nil
}

// add takes over a queue that is attached to its interface, or a socket.
func (in *intake) add(queue int) error {
	in.queues = append(in.queues, queue)
	if errno := in.control(unix.EPOLL_CTL_ADD, queue); errno != 0 {
		return fmt.Errorf("poll a queue: %w", errno)
	}
	return nil
}

// rearm has an empty queue be found when something comes.
func (in *intake) rearm(queue int) error {
	if errno := in.control(unix.EPOLL_CTL_MOD, queue); errno != 0 {
		return errno
	}
	return nil
}

func (in *intake) control(operation uintptr, queue int) unix.Errno {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(queue)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(in.fd), operation, uintptr(queue), uintptr(unsafe.Pointer(&event)), 0, 0)
	return errno
}

// look finds queues in which something waits by now.
func (in *intake) look() {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(in.fd), uintptr(unsafe.Pointer(&in.events[0])), uintptr(len(in.events)), 0, 0, 0)
	if in.errno = errno; errno != 0 {
		return
	}
	for i := range in.events[:n] {
		in.ready = append(in.ready, int(in.events[i].Fd))
	}
}

// wait parks until something waits in a queue, or until the deadline.
func (in *intake) wait() error {
	if err := in.conn.Read(in.tryLook); err != nil {
		return err
	}
	if in.errno != 0 && in.errno != unix.EINTR {
		return in.errno
	}
	return nil
}

func (in *intake) setDeadline(t time.Time) error { return in.file.SetReadDeadline(t) }

func (in *intake) close() error {
	err := in.file.Close()
	for _, queue := range in.queues {
		err = errors.Join(err, unix.Close(queue))
	}
	return err
}
