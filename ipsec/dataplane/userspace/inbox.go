package userspace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// slabs is how many messages a batch has at most, as many as a super-packet
	// has packets. Each may hold many datagrams that the kernel merged (UDP_GRO).
	slabs   = maxMerged
	slabLen = 65536
	oobLen  = 128
	// callSlabs is how many messages one receive call takes.
	callSlabs = 8
	// batchLen is after how many octets a batch is complete: those of merged
	// datagrams are to stay in the cache.
	batchLen = 1 << 18
)

// message is struct mmsghdr.
type message struct {
	header unix.Msghdr
	n      uint32
	_      [4]byte
}

// inbox is what one socket receives into: a batch at a time, of messages that were
// waiting.
type inbox struct {
	lane *lane
	raw  *rawSocket // nil: the UDP socket

	messages [slabs]message
	vecs     [slabs]unix.Iovec
	slabs    [slabs][]byte
	oobs     [slabs][oobLen]byte
	names    [slabs][unix.SizeofSockaddrInet6]byte

	n       int
	errno   unix.Errno
	tryRecv func(uintptr) bool
}

func newInbox(l *lane, raw *rawSocket) *inbox {
	in := &inbox{lane: l, raw: raw}
	in.tryRecv = func(uintptr) bool {
		in.receive()
		return in.errno != unix.EAGAIN
	}
	return in
}

// receive takes a batch of what waits. Datagrams without a UDP checksum, which RFC 3948,
// Section 2.1 prefers, come one in a message: with many of them in a batch the merger
// makes long super-packets all the same.
func (in *inbox) receive() {
	in.n, in.errno = 0, 0
	for octets := 0; in.n < slabs && octets < batchLen; {
		messages, errno := in.call()
		if errno != 0 && in.n == 0 {
			in.errno = errno
		}
		for i := range messages {
			octets += int(messages[i].n)
		}
		if in.n += len(messages); len(messages) < callSlabs {
			return
		}
	}
}

// call receives into the slabs behind those that are filled.
func (in *inbox) call() ([]message, unix.Errno) {
	for i := in.n; i < in.n+callSlabs; i++ {
		if in.slabs[i] == nil {
			in.grow(i)
		}
		h := &in.messages[i].header
		h.SetControllen(oobLen)
		h.Namelen = unix.SizeofSockaddrInet6
	}
	messages := in.messages[in.n : in.n+callSlabs]
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(in.lane.fd), uintptr(unsafe.Pointer(&messages[0])), callSlabs, 0, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return messages[:n], 0
}

// grow makes slab i, which many sockets never need.
func (in *inbox) grow(i int) {
	room := in.raw.room()
	in.slabs[i] = make([]byte, room+slabLen)
	in.vecs[i].Base = &in.slabs[i][room]
	in.vecs[i].SetLen(slabLen)
	h := &in.messages[i].header
	h.Iov = &in.vecs[i]
	h.SetIovlen(1)
	h.Control = &in.oobs[i][0]
	h.Name = &in.names[i][0]
}

// control is the ancillary data of a message.
func (in *inbox) control(i int) []byte { return in.oobs[i][:in.messages[i].header.Controllen] }
