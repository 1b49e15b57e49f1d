package engine

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Framing of RFC 9329, Sections 3 and 4.
const (
	streamPrefix = "IKETCP"
	lengthLen    = 2 // before each message, and counted in it
	markerLen    = 4 // zero before an IKE message, where ESP has its SPI
)

const (
	// prefixTime is how long the peer may take for the prefix, frameTime for
	// the rest of a message that it has begun.
	prefixTime = 5 * time.Second
	frameTime  = 10 * time.Second
	// trialTime is how long a connection may be without an established IKE SA,
	// strayTime how long one may that has lost its own.
	trialTime = 30 * time.Second
	strayTime = 5 * time.Second
	// writeTime is how long the peer may take nothing of what is to be written.
	writeTime = 30 * time.Second
	// lastWriteTime is how long the last messages may take when this end closes.
	lastWriteTime = 2 * time.Second

	// queueESP is how much may wait to be written before ESP packets are
	// dropped, queueIKE before IKE messages are. Much of it would be old when it
	// arrives.
	queueESP = 256 << 10
	queueIKE = 512 << 10
	// keptQueue is how much memory a queue keeps that is empty again.
	keptQueue = 64 << 10

	maxMessage  = 1<<16 - 1 // with its length
	trialBuffer = 4 << 10
	heldBuffer  = 128 << 10
	// maxBatch is how many packets the data plane gets at a time.
	maxBatch = 64
	// maxBad is how many messages in a row may be for nobody before the
	// connection is taken for corrupt (RFC 9329, Section 6.1). After a restart or
	// a rekeying there are a few.
	maxBad = 64
)

var (
	errNoStream   = errors.New("there is no such TCP connection")
	errStreamFull = errors.New("the peer takes what is sent by TCP too slowly")
)

// stream is a TCP connection with IKE messages and ESP packets in it.
type stream struct {
	way
	conn  net.Conn
	table *streams
	ours  bool // this end opened it
	known bool // the peer opened it, from the address of a configured one
	begun time.Time

	// trusted is set when an established IKE SA first uses it: then it may be
	// silent.
	trusted atomic.Bool
	owner   *tunnel // that uses it; guarded by the table's lock

	mu      sync.Mutex
	open    bool   // the prefix is there: something may be sent
	queue   []byte // to be written
	closing bool   // to be closed when everything is written
	wake    chan struct{}
}

// send queues a message with its frame. It never waits.
func (s *stream) send(marker bool, b []byte, limit int) error {
	n := lengthLen + len(b)
	if marker {
		n += markerLen
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing || !s.open:
		return errNoStream
	case n > maxMessage || len(s.queue)+n > limit:
		return errStreamFull
	}
	s.queue = binary.BigEndian.AppendUint16(s.queue, uint16(n))
	if marker {
		s.queue = append(s.queue, 0, 0, 0, 0)
	}
	s.queue = append(s.queue, b...)
	s.signal()
	return nil
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finish closes the connection when what is queued is written, or when that takes
// too long.
func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.closing = true
	s.signal()
	time.AfterFunc(lastWriteTime, func() { _ = s.conn.Close() })
}

// write writes what is queued until the connection ends.
func (s *stream) write() {
	defer s.conn.Close() // wakes the reader, who cleans up
	var spare []byte
	for range s.wake {
		for {
			s.mu.Lock()
			b, closing := s.queue, s.closing
			s.queue = spare[:0]
			s.mu.Unlock()
			if len(b) == 0 {
				spare = b
				if closing {
					return
				}
				break
			}
			_ = s.conn.SetWriteDeadline(time.Now().Add(writeTime))
			if s.put(b) != nil {
				return
			}
			if spare = b; cap(spare) > keptQueue {
				spare = nil
			}
		}
	}
}

// put writes messages with their frames, whose lengths are the data plane's to write if it
// has taken the connection over.
func (s *stream) put(b []byte) error {
	if s.table.taker == nil {
		_, err := s.conn.Write(b)
		return err
	}
	for len(b) > 0 {
		n := binary.BigEndian.Uint16(b)
		if _, err := s.conn.Write(b[lengthLen:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// read takes messages until the connection ends.
func (s *stream) read() {
	r := reader{stream: s, buf: make([]byte, 0, trialBuffer)}
	if !s.ours && !s.welcome() {
		return
	}
	if s.table.taker != nil {
		r.grow(maxMessage) // of a message that is longer than there is room the rest is lost
	}
	for r.more() && r.take() {
	}
}

// welcome begins with a connection that the peer opened.
func (s *stream) welcome() bool {
	if !s.prefix() {
		return false
	}
	err := s.begin()
	if err != nil {
		s.table.engine.counters.streamsRefused.Add(1)
		s.table.engine.config.Logger.Debug("a TCP connection is refused", "local", s.local, "remote", s.remote, "error", err)
	}
	return err == nil
}

// begin is for a connection whose prefix is behind it: a data plane that takes connections
// over does so.
func (s *stream) begin() error {
	if s.table.taker != nil {
		if err := s.table.taker.TakeStream(s.conn, frameTime); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
	return nil
}

// prefix waits for the prefix of the stream, and nothing is looked at before it is
// there (RFC 9329, Section 6.1), nor read beyond it.
func (s *stream) prefix() bool {
	var b [len(streamPrefix)]byte
	_ = s.conn.SetReadDeadline(s.begun.Add(prefixTime))
	_, err := io.ReadFull(s.conn, b[:])
	return err == nil && string(b[:]) == streamPrefix
}

// reader cuts a stream into messages.
type reader struct {
	*stream
	buf     []byte // what was read and not taken yet
	packets [][]byte
	bad     int       // messages for nobody, in a row
	since   time.Time // when the message that is not there whole began, zero if none did
}

// more reads on. It returns false when the connection has ended, or should.
func (r *reader) more() bool {
	if r.trusted.Load() && cap(r.buf) < heldBuffer {
		r.grow(heldBuffer)
	}
	for {
		if err := r.conn.SetReadDeadline(r.deadline()); err != nil {
			return false
		}
		n, err := r.conn.Read(r.buf[len(r.buf):cap(r.buf)])
		r.buf = r.buf[:len(r.buf)+n]
		if n > 0 {
			return true
		}
		if due := r.deadline(); !errors.Is(err, os.ErrDeadlineExceeded) || !due.IsZero() && !time.Now().Before(due) {
			return false
		}
		// It is trusted by now.
	}
}

// deadline is when the next octet has to be there, zero if it need not.
func (r *reader) deadline() time.Time {
	var due time.Time
	if !r.since.IsZero() {
		due = r.since.Add(frameTime)
	}
	if trial := r.begun.Add(trialTime); !r.ours && !r.trusted.Load() && (due.IsZero() || trial.Before(due)) {
		due = trial
	}
	return due
}

func (r *reader) grow(n int) {
	r.buf = append(make([]byte, 0, n), r.buf...)
}

// take hands on the messages that are there whole. It returns false if the stream
// makes no sense.
func (r *reader) take() bool {
	b := r.buf
	if r.table.taker != nil { // one message, the ESP packets taken out
		r.buf = b[:0]
		return r.judge(len(b) >= markerLen && r.table.engine.receive(r.way, b[markerLen:]))
	}
	sense := true
	for sense && len(b) >= lengthLen {
		n := int(binary.BigEndian.Uint16(b))
		if n < lengthLen {
			sense = false // RFC 9329, Section 3.1
			break
		}
		if len(b) < n {
			break
		}
		sense = r.message(b[lengthLen:n:n])
		b = b[n:]
	}
	sense = r.flush() && sense
	r.keep(b)
	return sense
}

// keep moves the beginning of the next message to the front, and makes room for
// all of it.
func (r *reader) keep(rest []byte) {
	same := len(rest) == len(r.buf) // nothing was taken
	r.buf = r.buf[:copy(r.buf, rest)]
	switch {
	case len(rest) == 0:
		r.since = time.Time{}
	case !same || r.since.IsZero():
		r.since = time.Now()
	}
	if len(rest) >= lengthLen {
		if n := int(binary.BigEndian.Uint16(rest)); n > cap(r.buf) {
			r.grow(n)
		}
	}
}

// message takes one message.
func (r *reader) message(b []byte) bool {
	switch {
	case len(b) <= 1:
		return true // empty, or a NAT keepalive (RFC 9329, Sections 3 and 6.6)
	case len(b) < markerLen:
		return r.judge(false)
	case binary.BigEndian.Uint32(b) == 0:
		ok := r.flush() // in their order
		return r.judge(r.table.engine.receive(r.way, b[markerLen:])) && ok
	}
	r.packets = append(r.packets, b)
	return len(r.packets) < maxBatch || r.flush()
}

// flush gives the data plane the packets that were collected.
func (r *reader) flush() bool {
	if len(r.packets) == 0 {
		return true
	}
	known, forged := r.table.receive(r.local, r.remote, r.packets)
	if known == 0 {
		r.bad += len(r.packets)
	} else {
		r.bad = 0
	}
	clear(r.packets)
	r.packets = r.packets[:0]
	return r.bad <= maxBad && forged == 0
}

// judge counts messages for nobody.
func (r *reader) judge(good bool) bool {
	if good {
		r.bad = 0
		return true
	}
	r.bad++
	return r.bad <= maxBad
}
