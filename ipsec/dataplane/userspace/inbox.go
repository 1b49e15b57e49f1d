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
	oobLen  = 448 // with headers for the way; as it is, those of a batch share the cache
	// callSlabs is how many messages one receive call takes.
	callSlabs = 8
	// batchLen is after how many octets a batch is complete: those of merged
	// datagrams are to stay in the cache.
	batchLen = 1 << 18
	// batchDatagrams is likewise for datagrams, which are many if they are short: others
	// wait for their turn meanwhile.
	batchDatagrams = 256
)

// message is struct mmsghdr.
type message struct {
	header unix.Msghdr
	n      uint32
	_      [4]byte
}

// inbox is what sockets are received into: a batch of one at a time, of messages that were
// waiting.
type inbox struct {
	fd  int        // the socket whose turn it is
	raw *rawSocket // nil: one of UDP

	messages [slabs]message
	vecs     [slabs]unix.Iovec
	slabs    [slabs][]byte
	oobs     [slabs][oobLen]byte
	names    [slabs][unix.SizeofSockaddrInet6]byte

	n     int
	said  [slabs]received // of each message of UDP
	errno unix.Errno
}

// receive takes a batch of what waits, and reports whether there may be more. Datagrams
// without a UDP checksum, which RFC 3948, Section 2.1 prefers, come one in a message: with
// many of them in a batch the merger makes long super-packets all the same.
func (in *inbox) receive() (more bool) {
	in.n, in.errno = 0, 0
	for octets, datagrams := 0, 0; in.n < slabs && octets < batchLen && datagrams < batchDatagrams; {
		n, errno := in.call()
		if errno != 0 && in.n == 0 {
			in.errno = errno
		}
		for range n {
			octets += int(in.messages[in.n].n)
			datagrams += in.datagrams(in.n)
			in.n++
		}
		if n < callSlabs {
			return errno != 0 && errno != unix.EAGAIN
		}
	}
	return true
}

// datagrams reads what was said of message i, and returns how many were merged in it.
func (in *inbox) datagrams(i int) int {
	if in.raw != nil {
		return 1
	}
	in.said[i] = parseControl(in.control(i), false)
	if size := in.said[i].segment; size > 0 {
		return (int(in.messages[i].n) + size - 1) / size
	}
	return 1
}

// call receives into the slabs behind those that are filled.
func (in *inbox) call() (int, unix.Errno) {
	for i := in.n; i < in.n+callSlabs; i++ {
		if in.slabs[i] == nil {
			in.grow(i)
		}
		h := &in.messages[i].header
		h.SetControllen(oobLen)
		h.Namelen = unix.SizeofSockaddrInet6
	}
	messages := in.messages[in.n : in.n+callSlabs]
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(in.fd), uintptr(unsafe.Pointer(&messages[0])), callSlabs, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
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

// truncated reports whether there was more of it.
func (in *inbox) truncated(i int) bool { return in.messages[i].header.Flags&unix.MSG_CTRUNC != 0 }
