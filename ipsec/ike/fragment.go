package ike

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

const (
	// maxFragments and maxReassembled bound what one message can make us keep
	// (RFC 7383, Section 2.6).
	maxFragments   = 64
	maxReassembled = 64 << 10

	// skfOverhead is the IKE header and the header of the Encrypted Fragment
	// payload (RFC 7383, Section 2.5).
	skfOverhead = wire.HeaderLen + 8
)

// fragmentSize is the largest IKE message that is sent whole: an IP packet of
// 1280 octets, the least that IPv6 carries, less IP, UDP and non-ESP marker
// (RFC 7383, Section 2.5.1). Some IPv4 paths carry less, but none that are in
// use for anything else.
func fragmentSize(remote netip.AddrPort) int {
	if remote.Addr().Unmap().Is4() {
		return 1280 - 20 - 8 - 4
	}
	return 1280 - 40 - 8 - 4
}

// protectFragments encrypts a message in pieces, each with its own integrity
// check (RFC 7383, Section 2.5).
func (sa *ikeSA) protectFragments(h wire.Header, first wire.PayloadType, plain []byte) ([][]byte, error) {
	size := fragmentSize(sa.remote) - skfOverhead - sa.sealer.Overhead()
	pieces := slices.Collect(slices.Chunk(plain, size))
	var datagrams [][]byte
	for i, piece := range pieces {
		b, err := h.AppendEncryptedFragment(nil, first, uint16(i+1), uint16(len(pieces)), sa.sealer.SealedLen(len(piece)))
		if err != nil {
			return nil, err
		}
		datagrams = append(datagrams, sa.sealer.Seal(b, b, piece))
	}
	return datagrams, nil
}

// reassembly collects the fragments of one message. Only fragments that passed
// the integrity check get here, and those of the message ID that the window
// expects, so an attacker cannot fill it.
type reassembly struct {
	id       uint32
	response bool
	total    uint16
	size     int
	first    wire.PayloadType
	hash     [sha256.Size]byte      // of the datagram with the first fragment
	head     [encryptedHeadLen]byte // its start
	pieces   [][]byte
}

// reassemble adds a fragment and returns the whole message when it was the last
// one missing, errIncomplete before that. A repeated or contradicting fragment
// is ignored; one of a larger total starts anew, because the peer has made
// smaller pieces after a loss (RFC 7383, Section 2.6).
func (sa *ikeSA) reassemble(h wire.Header, p *wire.EncryptedFragment, plain []byte, raw []byte) (wire.PayloadType, []byte, error) {
	r := &sa.reassembly
	if !sa.fragment || p.Total > maxFragments {
		return 0, nil, errIncomplete
	}
	if r.pieces == nil || r.id != h.MessageID || r.response != h.IsResponse() || p.Total > r.total {
		*r = reassembly{id: h.MessageID, response: h.IsResponse(), total: p.Total, pieces: make([][]byte, p.Total)}
	}
	if p.Total != r.total || r.pieces[p.Number-1] != nil || r.size+len(plain) > maxReassembled {
		return 0, nil, errIncomplete
	}
	r.size += len(plain)
	r.pieces[p.Number-1] = append([]byte{}, plain...)
	if p.Number == 1 {
		r.first, r.hash = p.FirstInner, sha256.Sum256(raw)
		copy(r.head[:], raw)
	}
	for _, piece := range r.pieces {
		if piece == nil {
			return 0, nil, errIncomplete
		}
	}
	return r.first, slices.Concat(r.pieces...), nil
}
