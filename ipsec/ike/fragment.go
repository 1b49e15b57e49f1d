package ike

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

const (
	// DefaultDatagram is the largest IP datagram in which an IKE message is sent
	// at first: the least that IPv6 carries (RFC 7383, Section 2.5.1). Some IPv4
	// paths carry less, but hardly any that is in use for anything else.
	DefaultDatagram = 1280
	// leastDatagram is the last resort: what every IPv4 host takes.
	leastDatagram = 576

	// maxFragments, maxReassembled and maxLarval bound what one message can make us
	// keep, the last one as long as the peer is not authenticated (RFC 7383,
	// Section 5). A message of 64 KiB in the smallest pieces fits.
	maxFragments   = 160
	maxReassembled = 64 << 10
	maxLarval      = 32 << 10

	// fragmentTries is how often a request is repeated in pieces of one size
	// before it is cut into smaller ones, and how often a repeated request is
	// answered in pieces of one size (RFC 7383, Sections 2.4 and 2.5.2).
	fragmentTries = 2

	// reassemblyTime is how long a request may be incomplete (RFC 7383, Section
	// 2.6). Responses have the time that their request has.
	reassemblyTime = time.Minute

	// skfOverhead is the IKE header and the header of the Encrypted Fragment
	// payload (RFC 7383, Section 2.5).
	skfOverhead = wire.HeaderLen + 8
)

// whole is a protected message as it was before it was cut, so that it can be cut
// into smaller pieces when it gets no answer.
type whole struct {
	header wire.Header
	first  wire.PayloadType
	plain  []byte
	sealer *suite.Protector // IKE_INTERMEDIATE changes that of the SA
	size   int              // of the IP datagrams that it is cut for
	pieces int
}

// room is how long an IKE message to that address may be, in an IP datagram of
// that size: less IP, UDP and the non-ESP marker (RFC 3948, Section 2.2).
func room(size int, remote netip.AddrPort) int {
	if remote.Addr().Unmap().Is4() {
		return size - 20 - 8 - 4
	}
	return size - 40 - 8 - 4
}

// smaller is the next size to try, 0 after the last one: few and far between, as
// RFC 7383, Section 2.5.2, wants it.
func smaller(size int) int {
	for _, s := range []int{DefaultDatagram, leastDatagram} {
		if s < size {
			return s
		}
	}
	return 0
}

// pathSize is what was found out about the path between two addresses: IP
// datagrams of that size pass, and larger ones did not.
type pathSize struct {
	local, remote netip.Addr
	size          int
}

// datagram is the largest IP datagram that messages of the SA are sent in: what
// was found to pass on this path, or what is configured (RFC 7383, Section
// 2.5.2).
func (sa *ikeSA) datagram() int {
	if f := &sa.m.found; f.size != 0 && f.local == sa.local.Addr() && f.remote == sa.remote.Addr() {
		return f.size
	}
	if sa.m.datagram != 0 {
		return sa.m.datagram
	}
	return DefaultDatagram
}

// seal encodes and encrypts one message in datagrams of at most size octets; h
// needs Exchange, MessageID and the Response flag only. Messages that fit are
// not cut, for pieces get lost more easily than the whole (RFC 7383, Section 4).
func (sa *ikeSA) seal(h wire.Header, payloads []wire.Payload, size int) (*whole, [][]byte, error) {
	sa.fillHeader(&h)
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		return nil, nil, err
	}
	w := &whole{header: h, first: first, plain: plain, sealer: sa.sealer}
	datagrams, err := sa.cut(w, size)
	if err == nil {
		sa.noteSent(h, payloads, datagrams)
	}
	return w, datagrams, err
}

// piecesFor is how many datagrams of that size a message takes. TCP needs none of
// that (RFC 9329, Section 7.5).
func (sa *ikeSA) piecesFor(w *whole, size int) int {
	if !sa.fragment || sa.tcp || w.sealer.SealedLen(len(w.plain))+wire.HeaderLen+4 <= room(size, sa.remote) {
		return 1
	}
	each := sa.pieceLen(w, size)
	return (len(w.plain) + each - 1) / each
}

// pieceLen is how much of a message fits into a fragment.
func (sa *ikeSA) pieceLen(w *whole, size int) int {
	return room(size, sa.remote) - skfOverhead - w.sealer.Overhead()
}

// cut encrypts a message for datagrams of that size.
func (sa *ikeSA) cut(w *whole, size int) ([][]byte, error) {
	w.size, w.pieces = size, sa.piecesFor(w, size)
	if w.pieces > 1 {
		return sa.protectFragments(w)
	}
	b, err := w.header.AppendEncrypted(nil, w.first, w.sealer.SealedLen(len(w.plain)))
	if err != nil {
		return nil, err
	}
	return [][]byte{w.sealer.Seal(b, b, w.plain)}, nil
}

// cutSmaller cuts a message into more pieces than before, for datagrams of at
// most size octets. It returns nil if that cannot be done or would not help: the
// receiver tells the sets of pieces apart by their number, which has to grow (RFC
// 7383, Section 2.5.2).
func (sa *ikeSA) cutSmaller(w *whole, size int) [][]byte {
	if w == nil || size < leastDatagram || sa.piecesFor(w, size) <= w.pieces {
		return nil
	}
	datagrams, err := sa.cut(w, size)
	if err != nil {
		return nil
	}
	return datagrams
}

// protectFragments encrypts a message in pieces, each with its own integrity
// check (RFC 7383, Section 2.5).
func (sa *ikeSA) protectFragments(w *whole) ([][]byte, error) {
	pieces := slices.Collect(slices.Chunk(w.plain, sa.pieceLen(w, w.size)))
	var datagrams [][]byte
	for i, piece := range pieces {
		b, err := w.header.AppendEncryptedFragment(nil, w.first, uint16(i+1), uint16(len(pieces)), w.sealer.SealedLen(len(piece)))
		if err != nil {
			return nil, err
		}
		datagrams = append(datagrams, w.sealer.Seal(b, b, piece))
	}
	return datagrams, nil
}

// reassembly collects the fragments of one message. Only fragments that passed
// the integrity check get here, and those of the message ID that the window
// expects, so an attacker cannot fill it. Requests and responses have one each,
// for both can be under way at the same time.
type reassembly struct {
	id     uint32
	pieces [][]byte // as many as there are in all
	have   int
	octets int // that are kept
	until  time.Time

	// Of the first fragment: the type of the first payload, the hash of the
	// datagram and its start.
	first wire.PayloadType
	hash  [sha256.Size]byte
	head  []byte
	// largest is the largest IP datagram that came.
	largest int
}

// opened is a message after decryption and reassembly.
type opened struct {
	first wire.PayloadType
	plain []byte
	// Of the datagram, or of that with the first fragment: the hash, and its
	// octets up to the header of the Encrypted payload.
	hash [sha256.Size]byte
	head []byte
	// datagram is the largest IP datagram of a message that came in
	// fragments, 0 for one that came as a whole; pieces is how many there were.
	datagram, pieces int
}

// partsOf are the fragments of a message like h that are there, nil if there are none.
func (x *messaging) partsOf(h wire.Header) **reassembly {
	if h.IsResponse() {
		return &x.parts[1]
	}
	return &x.parts[0]
}

// expects reports whether a fragment is one that is missing, before it is
// decrypted (RFC 7383, Section 2.6): what is repeated, contradicts, or was not
// negotiated is dropped. One of a larger total begins a new set, because the peer
// has made smaller pieces after a loss.
func (sa *ikeSA) expects(h wire.Header, p *wire.EncryptedFragment) bool {
	if !sa.fragment || p.Total > maxFragments {
		return false
	}
	r := *sa.partsOf(h)
	if r == nil || r.id != h.MessageID || int(p.Total) > len(r.pieces) {
		return true
	}
	return int(p.Total) == len(r.pieces) && r.pieces[p.Number-1] == nil
}

// reassemble adds a fragment that expects accepted and the integrity check
// proved. It returns the message when it was the last one missing, errIncomplete
// before that, and errTooLong when the bound is passed: no peer in its senses
// does that (RFC 7383, Section 5).
func (sa *ikeSA) reassemble(h wire.Header, p *wire.EncryptedFragment, head, plain []byte, d Datagram) (opened, error) {
	parts := sa.partsOf(h)
	if r := *parts; r == nil || r.id != h.MessageID || int(p.Total) > len(r.pieces) {
		*parts = &reassembly{id: h.MessageID, pieces: make([][]byte, p.Total), until: sa.m.now.Add(reassemblyTime)}
	}
	r := *parts
	if r.octets += len(plain) + len(head); r.octets > sa.mayHold() {
		*parts = nil
		return opened{}, errTooLong
	}
	r.have++
	r.pieces[p.Number-1] = append(make([]byte, 0, len(plain)), plain...) // never nil
	r.largest = max(r.largest, datagramSize(d))
	if p.Number == 1 {
		r.first, r.hash, r.head = p.FirstInner, sha256.Sum256(d.Data), slices.Clone(head)
	}
	if r.have < len(r.pieces) {
		return opened{}, errIncomplete
	}
	*parts = nil
	return opened{first: r.first, plain: slices.Concat(r.pieces...), head: r.head, hash: r.hash, datagram: r.largest, pieces: len(r.pieces)}, nil
}

// datagramSize is how large the IP datagram was that carried d, without options.
func datagramSize(d Datagram) int {
	return len(d.Data) + 1000 - room(1000, d.Remote)
}

// forgetParts drops fragments that are older than they may be.
func (sa *ikeSA) forgetParts() {
	if r := sa.parts[0]; r != nil && sa.m.due(r.until) {
		sa.parts[0] = nil
	}
}

// mayHold is the bound of what is held, and of one message in fragments.
func (sa *ikeSA) mayHold() int {
	if sa.state.in(stateLarval) {
		return maxLarval
	}
	return maxReassembled
}

// partsHeld is how many octets of fragments are kept.
func (x *messaging) partsHeld() int {
	n := 0
	for _, r := range x.parts {
		if r != nil {
			n += r.octets
		}
	}
	return n
}

// held is how many octets of messages the SA keeps that are not worked on yet.
func (sa *ikeSA) held() int {
	n := sa.partsHeld()
	for _, d := range sa.inbox {
		n += len(d.Data)
	}
	return n
}

// repeatsInPieces reports whether d is the first fragment of the request that was
// answered last, cut anew by the peer. Its octets are not those that are
// remembered, so only the integrity check can tell; other fragments are not
// answered (RFC 7383, Section 2.6.1).
func (sa *ikeSA) repeatsInPieces(h wire.Header, d Datagram) bool {
	if !sa.fragment || sa.opener == nil || sa.window.response == nil || h.IsResponse() || h.MessageID+1 != sa.window.nextReceive {
		return false
	}
	parsed, err := wire.Parse(d.Data)
	if err != nil || len(parsed.Payloads) == 0 {
		return false
	}
	p, ok := parsed.Payloads[len(parsed.Payloads)-1].(*wire.EncryptedFragment)
	if !ok || p.Number != 1 {
		return false
	}
	header, body, _ := parsed.Protected()
	opener := sa.opener
	if sa.window.before.opener != nil {
		opener = sa.window.before.opener
	}
	if _, err = opener.Open(nil, header, body); err != nil {
		sa.m.stats.Unauthentic++
	}
	return err == nil
}
