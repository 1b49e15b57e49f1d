package job

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// The kernel counts offsets from networkHeader on from the network header, whatever link
// layer is before it (SKF_NET_OFF of linux/filter.h).
const networkHeader = 0xfff00000

// everything is what a filter returns to keep all of a packet.
const everything = 0xffffffff

// filter is a program for a packet socket that keeps what a capture wants; nil: all.
func filter(t *swanherdv1.CaptureTask) ([]bpf.RawInstruction, error) {
	if t.GetHost() == "" && t.GetProtocol() == 0 && t.GetPort() == 0 {
		return nil, nil
	}
	var host netip.Addr
	if t.GetHost() != "" {
		var err error
		if host, err = netip.ParseAddr(t.GetHost()); err != nil {
			return nil, fmt.Errorf("host: %w", err)
		}
		host = host.Unmap()
	}
	var all []bpf.Instruction
	for _, family := range []struct {
		etherType uint32
		is        func(netip.Addr) bool
		body      func(*program, netip.Addr, uint32, uint32)
	}{
		{unix.ETH_P_IP, netip.Addr.Is4, (*program).ipv4},
		{unix.ETH_P_IPV6, netip.Addr.Is6, (*program).ipv6},
	} {
		if host.IsValid() && !family.is(host) {
			continue
		}
		var p program
		family.body(&p, host, uint32(t.GetProtocol()), uint32(t.GetPort()))
		body := p.finish()
		all = append(all, bpf.LoadExtension{Num: bpf.ExtProto},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: family.etherType, SkipTrue: uint8(len(body))})
		all = append(all, body...)
	}
	return bpf.Assemble(append(all, bpf.RetConstant{Val: 0}))
}

// A program is the part of a filter for one address family: checks, one after the other.
type program struct {
	ins []bpf.Instruction
	// jumps are those that leave it when a check fails.
	jumps []int
}

func (p *program) add(ins ...bpf.Instruction) { p.ins = append(p.ins, ins...) }

// need leaves the program unless the accumulator is the value.
func (p *program) need(value uint32) {
	p.jumps = append(p.jumps, len(p.ins))
	p.add(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value})
}

// finish ends the program: a packet that passed all checks is kept, another one dropped.
func (p *program) finish() []bpf.Instruction {
	p.add(bpf.RetConstant{Val: everything}, bpf.RetConstant{Val: 0})
	for _, at := range p.jumps {
		jump := p.ins[at].(bpf.JumpIf)
		jump.SkipTrue = uint8(len(p.ins) - 2 - at)
		p.ins[at] = jump
	}
	return p.ins
}

// load loads octets of the network header.
func load(offset, size uint32) bpf.Instruction {
	return bpf.LoadAbsolute{Off: networkHeader + offset, Size: int(size)}
}

func (p *program) ipv4(host netip.Addr, protocol, port uint32) {
	if host.IsValid() {
		p.either(12, 16, host)
	}
	if protocol != 0 {
		p.add(load(9, 1))
		p.need(protocol)
	}
	if port == 0 {
		return
	}
	p.withPorts(9)
	p.add(load(6, 2), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x1fff}) // only a first fragment has ports
	p.need(0)
	p.add(load(0, 1), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2}, bpf.TAX{})
	p.port(port)
}

// ipv6 takes a header that extension headers follow for what it says.
func (p *program) ipv6(host netip.Addr, protocol, port uint32) {
	if host.IsValid() {
		p.either(8, 24, host)
	}
	if protocol != 0 {
		p.add(load(6, 1))
		p.need(protocol)
	}
	if port == 0 {
		return
	}
	p.withPorts(6)
	p.add(bpf.LoadConstant{Dst: bpf.RegX, Val: 40})
	p.port(port)
}

// either needs the address to be one of two, by words from the first one's offset on.
func (p *program) either(first, second uint32, host netip.Addr) {
	octets := host.AsSlice()
	words := uint32(len(octets) / 4)
	word := func(i uint32) uint32 { return binary.BigEndian.Uint32(octets[i*4:]) }
	for i := range words {
		// Past what is left of this, which is two for each word and the jump over the other.
		p.add(load(first+i*4, 4), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: word(i), SkipTrue: uint8(2*(words-1-i) + 1)})
	}
	p.add(bpf.Jump{Skip: 2 * words})
	for i := range words {
		p.add(load(second+i*4, 4))
		p.need(word(i))
	}
}

// withPorts needs a protocol, whose number is at an offset, that has ports where TCP has them.
func (p *program) withPorts(offset uint32) {
	p.add(load(offset, 1),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_SCTP, SkipTrue: 1})
	p.need(unix.IPPROTO_UDP)
}

// port needs one of the ports behind X octets to be this one.
func (p *program) port(port uint32) {
	p.add(bpf.LoadIndirect{Off: networkHeader, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 2},
		bpf.LoadIndirect{Off: networkHeader + 2, Size: 2})
	p.need(port)
}
