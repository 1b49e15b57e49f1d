package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// packetLen is the length of both packets in unauthenticated mode (RFC 8762, Sections
// 4.2.1 and 4.3.1). Nothing longer is sent, so that no answer is longer than what it
// answers.
const packetLen = 44

// errorEstimate is of a clock of which nothing is known to be synchronized: S and Z are
// zero, scale 0, multiplier 1 (RFC 4656, Section 4.1.2).
const errorEstimate = 1

// test is a Session-Sender's packet.
type test struct {
	Sequence      uint32
	Time          uint64 // NTP, as ntp makes it
	ErrorEstimate uint16
}

// answer is a Session-Reflector's packet.
type answer struct {
	Sequence uint32 // the reflector's own: it is stateful
	Time     uint64
	Received uint64
	Test     test // as it was received
	HopLimit uint8
}

var errNoProbe = errors.New("no STAMP packet")

func (t test) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, t.Sequence)
	b = binary.BigEndian.AppendUint64(b, t.Time)
	b = binary.BigEndian.AppendUint16(b, t.ErrorEstimate)
	return append(b, make([]byte, packetLen-14)...)
}

// parseTest ignores what is behind the base packet (RFC 8972).
func parseTest(b []byte) (test, error) {
	if len(b) < packetLen {
		return test{}, fmt.Errorf("%w: %d octets, want %d", errNoProbe, len(b), packetLen)
	}
	return test{
		Sequence: binary.BigEndian.Uint32(b), Time: binary.BigEndian.Uint64(b[4:]), ErrorEstimate: binary.BigEndian.Uint16(b[12:]),
	}, nil
}

func (a answer) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, a.Sequence)
	b = binary.BigEndian.AppendUint64(b, a.Time)
	b = binary.BigEndian.AppendUint16(b, errorEstimate)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint64(b, a.Received)
	b = binary.BigEndian.AppendUint32(b, a.Test.Sequence)
	b = binary.BigEndian.AppendUint64(b, a.Test.Time)
	b = binary.BigEndian.AppendUint16(b, a.Test.ErrorEstimate)
	return append(b, 0, 0, a.HopLimit, 0, 0, 0)
}

func parseAnswer(b []byte) (answer, error) {
	if len(b) < packetLen {
		return answer{}, fmt.Errorf("%w: %d octets, want %d", errNoProbe, len(b), packetLen)
	}
	return answer{
		Sequence: binary.BigEndian.Uint32(b), Time: binary.BigEndian.Uint64(b[4:]), Received: binary.BigEndian.Uint64(b[16:]),
		Test: test{
			Sequence: binary.BigEndian.Uint32(b[24:]), Time: binary.BigEndian.Uint64(b[28:]), ErrorEstimate: binary.BigEndian.Uint16(b[36:]),
		},
		HopLimit: b[40],
	}, nil
}

// ntpEpoch is 1900 in seconds before 1970 (RFC 5905, Section 6).
const ntpEpoch = 2208988800

// ntp is t in NTP's 64-bit format: seconds since 1900, modulo 2^32, and their fraction.
func ntp(t time.Time) uint64 {
	seconds := uint64(t.Unix()+ntpEpoch) << 32
	return seconds | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// between is the time from a to b of two NTP timestamps, negative if b is earlier. It is
// right if they are within 68 years of each other.
func between(a, b uint64) time.Duration {
	d := int64(b - a)
	seconds, fraction := d>>32, uint64(uint32(d))
	return time.Duration(seconds)*time.Second + time.Duration(fraction*uint64(time.Second)>>32)
}
