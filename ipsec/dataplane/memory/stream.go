package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

var _ dataplane.StreamPlane = (*Plane)(nil)

// JoinStreams implements dataplane.StreamPlane. A packet is octets there, made of
// what stands for it here.
func (p *Plane) JoinStreams(send dataplane.StreamSend) (dataplane.StreamReceive, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, dataplane.ErrClosed
	case p.streams != nil:
		return nil, errors.New("join streams: the plane has joined some")
	}
	p.streams = send
	return p.receiveStream, nil
}

func (p *Plane) sendStream(d Datagram) error {
	if err := p.streams(d.From, d.To, d.packet.encode()); err != nil {
		return fmt.Errorf("send packet by TCP to %s: %w", d.To, err)
	}
	return nil
}

func (p *Plane) receiveStream(local, remote netip.AddrPort, packets [][]byte) (known, forged int) {
	for _, b := range packets {
		s := decode(bytes.Clone(b))
		if s == nil {
			continue
		}
		if a := p.inboundSA(s.spi); a != nil {
			known++
			if !bytes.Equal(a.Key, s.key) {
				forged++
			}
		}
		p.receive(Datagram{From: remote, To: local, packet: s, tcp: true})
	}
	return known, forged
}

// at is where a datagram arrived.
func (d *Datagram) at(p *Plane) netip.AddrPort {
	if d.tcp || d.To.Port() == 0 {
		return d.To
	}
	return p.addr
}

func (s *sealed) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, s.spi)
	b = binary.BigEndian.AppendUint64(b, s.seq)
	b = append(append(b, byte(len(s.key))), s.key...)
	return append(b, s.inner...)
}

// decode returns nil for what encode did not make.
func decode(b []byte) *sealed {
	const head = 4 + 8 + 1
	if len(b) < head || len(b) < head+int(b[head-1]) {
		return nil
	}
	key := head + int(b[head-1])
	return &sealed{spi: binary.BigEndian.Uint32(b), seq: binary.BigEndian.Uint64(b[4:]), key: b[head:key], inner: b[key:]}
}

func (p *Plane) inboundSA(spi uint32) *association {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inbound[spi]
}
