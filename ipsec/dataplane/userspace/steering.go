package userspace

import (
	"errors"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"
)

// sharePort prepares the socket, before it is bound, to be the first of several of its
// port. The port is then bound as by one socket alone, so that another daemon that has it,
// or wants it later, is told.
func (s *socket) sharePort(receivers int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	filter := steering(uint32(receivers))
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	return errors.Join(err, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0))
}

// steering is the program by which the kernel chooses which of the port's sockets gets a
// datagram, by their number. The first gets IKE, with zeros in the place of the SPI, and what
// is too short. Behind it are, for each value of a hash of source address and port, one for
// each receiver, which has the SPIs of one remainder.
//
// So datagrams of one peer for one receiver, which the kernel merges whatever their SPIs,
// keep their order, and a peer that sends too much takes the room of few others.
func steering(receivers uint32) []unix.SockFilter {
	const (
		network = 0xfff00000 // SKF_NET_OFF: from the IP header on
		// scratch memory
		receiver, port = 0, 1
	)
	load := func(size uint16, at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
	}
	compute := func(operation uint16, k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_ALU | operation | unix.BPF_K, K: k}
	}
	combine := func(operation uint16) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_ALU | operation | unix.BPF_X}
	}
	toX := unix.SockFilter{Code: unix.BPF_MISC | unix.BPF_TAX}
	hash := []unix.SockFilter{ // the address is in A; Fibonacci hashing (Knuth, TAOCP 6.4)
		{Code: unix.BPF_LDX | unix.BPF_MEM, K: port},
		combine(unix.BPF_ADD),
		compute(unix.BPF_MUL, 0x9e3779b1),
		compute(unix.BPF_RSH, uint32(32-bits.TrailingZeros(queuesOfIntake))), // a power of two
		compute(unix.BPF_MUL, receivers),
		{Code: unix.BPF_LDX | unix.BPF_MEM, K: receiver},
		combine(unix.BPF_ADD),
		compute(unix.BPF_ADD, 1),
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	v6 := []unix.SockFilter{
		load(unix.BPF_H, network+ipv6HeaderLen),
		{Code: unix.BPF_ST, K: port},
		load(unix.BPF_W, network+8), toX,
		load(unix.BPF_W, network+12), combine(unix.BPF_XOR), toX,
		load(unix.BPF_W, network+16), combine(unix.BPF_XOR), toX,
		load(unix.BPF_W, network+20), combine(unix.BPF_XOR),
	}
	v4 := []unix.SockFilter{
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: network}, // the header's length
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: network},
		{Code: unix.BPF_ST, K: port},
		load(unix.BPF_W, network+12),
		{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(v6))},
	}
	begin := []unix.SockFilter{
		load(unix.BPF_W, 0), // the program returns 0 where there is nothing to load
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: uint8(5 + len(v4) + len(v6) + len(hash) - 1)},
		compute(unix.BPF_MOD, receivers),
		{Code: unix.BPF_ST, K: receiver},
		load(unix.BPF_B, network),
		compute(unix.BPF_RSH, 4),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 4, Jf: uint8(len(v4))},
	}
	return slices.Concat(begin, v4, v6, hash)
}
