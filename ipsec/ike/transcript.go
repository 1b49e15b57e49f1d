package ike

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Entry is one line of a transcript.
type Entry struct {
	Time time.Time
	// SPI is ours of the IKE SA that it is about, zero if none or unknown.
	SPI wire.SPI
	// Text begins with ">" if this end sent it, "<" if it received it, "x" if it
	// dropped it, "!" if something happened.
	Text string
}

func (e Entry) String() string {
	spi := strings.Repeat(" ", 2*len(e.SPI))
	if !e.SPI.IsZero() {
		spi = e.SPI.String()
	}
	return e.Time.UTC().Format("2006-01-02 15:04:05.000") + " " + spi + " " + e.Text
}

// maxTranscript bounds what a machine remembers, in octets: some forty
// exchanges' worth. The oldest goes first.
const maxTranscript = 4 << 10

// usualTranscript is enough for a handshake.
const usualTranscript = 704

// transcript is what a machine sent, received and did last. It is written with
// every message, so it keeps records of octets, which redact makes of payloads
// without a secret in them, and only who reads it makes text of them.
type transcript struct {
	log    []byte
	recent [4]int // where the latest records begin, -1 for none
	route  route
	drops  *[numDrops]dropped // nil before the first
}

// recordKind says what a record is of.
type recordKind uint8

const (
	recordSent recordKind = iota + 1
	recordReceived
	recordAgain // sent once more
	recordNote  // the body is text
)

// A record begins with its length. The body is what redact made, or text.
const (
	recordLen    = 0  // 2 octets, of all
	recordTime   = 2  // 8 octets, nanoseconds
	recordType   = 10 // recordKind
	recordX      = 11 // exchange type
	recordFlags  = 12 // as in the header of the message
	recordPieces = 13 // datagrams
	recordID     = 14 // 4 octets
	recordCount  = 18 // 2 octets: so many like this
	recordSize   = 20 // 4 octets: length of the message, 0 for unknown
	recordSPI    = 24 // 8 octets, ours
	recordHead   = 32
)

// maxRecord bounds a record.
const maxRecord = 640

// sent notes a message of ours.
func (tr *transcript) sent(now time.Time, spi wire.SPI, h wire.Header, payloads []wire.Payload, datagrams [][]byte) {
	size := 0
	for _, d := range datagrams {
		size += len(d)
	}
	tr.message(now, recordSent, spi, h, payloads, len(datagrams), size)
}

// again notes that a message of ours, sent before, went out once more.
func (tr *transcript) again(now time.Time, spi wire.SPI, datagrams [][]byte) {
	if len(datagrams) == 0 {
		return
	}
	if h, err := wire.ParseHeader(datagrams[0]); err == nil {
		tr.message(now, recordAgain, spi, h, nil, len(datagrams), 0)
	}
}

// received notes a message that was accepted, of so many octets (0 if unknown)
// and datagrams.
func (tr *transcript) received(now time.Time, spi wire.SPI, h wire.Header, payloads []wire.Payload, pieces, size int) {
	tr.message(now, recordReceived, spi, h, payloads, pieces, size)
}

func (tr *transcript) message(now time.Time, kind recordKind, spi wire.SPI, h wire.Header, payloads []wire.Payload, pieces, size int) {
	payloads = withoutPadding(payloads)
	if len(payloads) == 0 && tr.merge(now, kind, spi, h) {
		return
	}
	tr.begin(now, kind, spi)
	r := tr.log[tr.recent[0]:]
	r[recordX], r[recordFlags], r[recordPieces] = byte(h.Exchange), byte(h.Flags), byte(min(pieces, 255))
	binary.BigEndian.PutUint32(r[recordID:], h.MessageID)
	binary.BigEndian.PutUint32(r[recordSize:], uint32(size))
	tr.log = redact(tr.log, payloads, tr.recent[0]+maxRecord)
	tr.end()
}

// merge counts a message without payloads in the record of one like it among
// the latest: liveness checks (RFC 7296, Section 2.4) and repetitions would soon
// leave nothing else.
func (tr *transcript) merge(now time.Time, kind recordKind, spi wire.SPI, h wire.Header) bool {
	for _, at := range tr.recent {
		if at < 0 || at >= len(tr.log) {
			continue
		}
		r := tr.log[at:]
		if recordKind(r[recordType]) != kind || binary.BigEndian.Uint16(r) != recordHead || r[recordX] != byte(h.Exchange) ||
			r[recordFlags] != byte(h.Flags) || string(r[recordSPI:recordHead]) != string(spi[:]) {
			continue
		}
		if kind == recordAgain && binary.BigEndian.Uint32(r[recordID:]) != h.MessageID {
			continue
		}
		binary.BigEndian.PutUint64(r[recordTime:], uint64(now.UnixNano()))
		binary.BigEndian.PutUint32(r[recordID:], h.MessageID)
		if n := binary.BigEndian.Uint16(r[recordCount:]); n < 1<<16-1 {
			binary.BigEndian.PutUint16(r[recordCount:], n+1)
		}
		return true
	}
	return false
}

// note writes down something that is not a message.
func (tr *transcript) note(now time.Time, spi wire.SPI, parts ...string) {
	tr.begin(now, recordNote, spi)
	for _, p := range parts {
		room := tr.recent[0] + maxRecord - len(tr.log)
		tr.log = append(tr.log, p[:min(len(p), room)]...)
	}
	tr.end()
}

// follow writes down that messages go another way from now on.
func (tr *transcript) follow(now time.Time, spi wire.SPI, r route) {
	if r == tr.route {
		return
	}
	tr.route = r
	by := ""
	if r.tcp {
		by = " by TCP"
	}
	tr.note(now, spi, "between ", r.local.String(), " and ", r.remote.String(), by)
}

// begin appends the head of a record, after making room.
func (tr *transcript) begin(now time.Time, kind recordKind, spi wire.SPI) {
	if tr.log == nil {
		tr.log = make([]byte, 0, usualTranscript)
		tr.recent = [4]int{-1, -1, -1, -1}
	}
	if len(tr.log)+maxRecord > maxTranscript {
		tr.forgetOldest()
	}
	copy(tr.recent[1:], tr.recent[:3])
	tr.recent[0] = len(tr.log)
	var head [recordHead]byte
	binary.BigEndian.PutUint64(head[recordTime:], uint64(now.UnixNano()))
	head[recordType] = byte(kind)
	binary.BigEndian.PutUint16(head[recordCount:], 1)
	copy(head[recordSPI:], spi[:])
	tr.log = append(tr.log, head[:]...)
}

func (tr *transcript) end() {
	binary.BigEndian.PutUint16(tr.log[tr.recent[0]:], uint16(len(tr.log)-tr.recent[0]))
}

// forgetOldest makes a quarter of the room free.
func (tr *transcript) forgetOldest() {
	cut := 0
	for len(tr.log)-cut > maxTranscript*3/4-maxRecord {
		cut += int(binary.BigEndian.Uint16(tr.log[cut:]))
	}
	tr.log = tr.log[:copy(tr.log, tr.log[cut:])]
	for i := range tr.recent {
		tr.recent[i] = max(tr.recent[i]-cut, -1)
	}
}

// join appends what another machine wrote, which this one has taken over with
// the IKE SA that has the SPI.
func (tr *transcript) join(other *transcript, spi wire.SPI) {
	for rest := other.log; len(rest) > 0; {
		n := int(binary.BigEndian.Uint16(rest))
		tr.begin(time.Time{}, 0, spi)
		tr.log = append(tr.log[:tr.recent[0]], rest[:n]...)
		copy(tr.log[tr.recent[0]+recordSPI:], spi[:])
		rest = rest[n:]
	}
	if other.log != nil {
		tr.route = other.route
	}
}

// entries returns the transcript as text, the oldest first.
func (tr *transcript) entries() []Entry {
	var out []Entry
	for rest := tr.log; len(rest) > 0; {
		n := int(binary.BigEndian.Uint16(rest))
		out = append(out, entryOf(rest[:n]))
		rest = rest[n:]
	}
	if tr.drops != nil {
		for kind, d := range tr.drops {
			if d.count > 0 {
				out = append(out, d.entry(dropKind(kind)))
			}
		}
	}
	// What was counted in an older record happened later.
	slices.SortStableFunc(out, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return out
}

func entryOf(r []byte) Entry {
	e := Entry{Time: time.Unix(0, int64(binary.BigEndian.Uint64(r[recordTime:])))}
	copy(e.SPI[:], r[recordSPI:])
	kind, body := recordKind(r[recordType]), r[recordHead:]
	if kind == recordNote {
		e.Text = "! " + string(body)
		return e
	}
	h := wire.Header{
		Exchange: wire.ExchangeType(r[recordX]), Flags: wire.Flags(r[recordFlags]), MessageID: binary.BigEndian.Uint32(r[recordID:]),
	}
	payloads, cut := restore(body)
	switch kind {
	case recordSent:
		e.Text = "> " + notation.Detailed(h, payloads)
	case recordReceived:
		e.Text = "< " + notation.Detailed(h, payloads)
	case recordAgain:
		e.Text = "> " + notation.Head(h) + " again"
	}
	if cut {
		e.Text += " and more"
	}
	if size := binary.BigEndian.Uint32(r[recordSize:]); size > 0 {
		e.Text += fmt.Sprintf(" %d octets", size)
	}
	if n := r[recordPieces]; n > 1 {
		e.Text += fmt.Sprintf(" in %d datagrams", n)
	}
	if n := binary.BigEndian.Uint16(r[recordCount:]); n > 1 {
		e.Text += fmt.Sprintf(", the last of %d", n)
	}
	return e
}

// dropKind says why a datagram was dropped; Stats counts the same.
type dropKind uint8

const (
	dropMalformed dropKind = iota
	dropUnknownSPI
	dropWrongState
	dropWrongMessageID
	dropUnauthentic
	dropQueueFull
	dropHint
	numDrops
)

var dropTexts = [numDrops]string{
	dropMalformed:      "malformed",
	dropUnknownSPI:     "SPI is unknown or reflected",
	dropWrongState:     "not allowed in the state of the IKE SA",
	dropWrongMessageID: "message ID is not the next one",
	dropUnauthentic:    "not protected, or its integrity check fails",
	dropQueueFull:      "too many wait for the one at work",
	dropHint:           "not authenticated, so not believed",
}

// dropped is the memory of one kind. Strangers can cause drops without end, so
// they are counted and never push anything else out.
type dropped struct {
	count  uint32
	at     time.Time
	remote netip.AddrPort
}

func (d *dropped) entry(kind dropKind) Entry {
	return Entry{Time: d.at, Text: fmt.Sprintf("x %s: %d, the last from %s", dropTexts[kind], d.count, d.remote)}
}

// noteDrops writes down which counters a datagram has raised.
func (m *machine) noteDrops(before Stats, remote netip.AddrPort) {
	now, then := m.stats.drops(), before.drops()
	if now == then {
		return
	}
	if m.transcript.drops == nil {
		m.transcript.drops = new([numDrops]dropped)
	}
	for kind := range now {
		if now[kind] != then[kind] {
			d := &m.transcript.drops[kind]
			d.count, d.at, d.remote = d.count+uint32(now[kind]-then[kind]), m.now, remote
		}
	}
}

func (s *Stats) drops() [numDrops]uint64 {
	return [numDrops]uint64{
		dropMalformed: s.Malformed, dropUnknownSPI: s.UnknownSPI, dropWrongState: s.WrongState,
		dropWrongMessageID: s.WrongMessageID, dropUnauthentic: s.Unauthentic, dropQueueFull: s.QueueFull, dropHint: s.Hints,
	}
}

// noteEvent writes an event down.
func (m *machine) noteEvent(e Effect) {
	note := func(spi wire.SPI, parts ...string) { m.transcript.note(m.now, spi, parts...) }
	switch e := e.(type) {
	case IKEUp:
		note(e.SA.LocalSPI, "IKE SA up")
	case IKEDown:
		note(e.SA.LocalSPI, "IKE SA down: ", e.Reason.String())
	case IKESuspect:
		if e.SA.Suspect {
			note(e.SA.LocalSPI, "peer leaves requests unanswered")
		} else {
			note(e.SA.LocalSPI, "peer answers again")
		}
	case IKERekeyed:
		note(e.Old.LocalSPI, "IKE SA rekeyed, now ", e.New.LocalSPI.String())
	case ChildUp:
		note(e.SA.IKE, "Child SA up: ", e.SA.Name, " ", hexSPI(e.SA.InboundSPI), " in, ", hexSPI(e.SA.OutboundSPI), " out")
	case ChildDown:
		note(e.SA.IKE, "Child SA down: ", e.SA.Name, " ", hexSPI(e.SA.InboundSPI), " in: ", e.Reason.String())
	case ChildRekeyed:
		note(e.New.IKE, "Child SA rekeyed: ", e.New.Name, " ", hexSPI(e.Old.InboundSPI), " in, now ", hexSPI(e.New.InboundSPI))
	case Failed:
		if e.Child != "" {
			note(wire.SPI{}, "failed: ", e.Child, ": ", e.Err.Error())
		} else {
			note(wire.SPI{}, "failed: ", e.Err.Error())
		}
	case Configured:
		note(e.SA.LocalSPI, "internal configuration: ", e.SA.Internal.String())
	case Closed:
		note(wire.SPI{}, "closed")
	}
}

func hexSPI(spi uint32) string { return strconv.FormatUint(uint64(spi), 16) }

// Transcript returns the last messages and events of the tunnel, the oldest
// first. There is no secret in it: of keys, nonces, key exchange data and AUTH
// not even the octets are kept that everybody on the path has seen.
func (t *Tunnel) Transcript() []Entry { return t.transcript.entries() }
