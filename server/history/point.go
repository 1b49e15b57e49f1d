package history

import (
	"encoding/binary"
	"errors"
)

// Point is what was in one step of a series.
type Point struct {
	// Step is the number of the step since 1970.
	Step int64
	// Samples are the looks at the tunnels, Up those that found one up or degraded.
	Samples, Up                                       uint64
	OctetsIn, OctetsOut, PacketsIn, PacketsOut, Drops uint64
	// Missing are packets that the path lost, by sequence numbers. Probes were sent, and
	// ProbesLost not answered; RTT is the sum of the round trips of the others, and Jitter
	// that of Jitters differences of delays, both in microseconds.
	Missing, Probes, ProbesLost, RTT, Jitter, Jitters uint64
}

// add takes in what was in another step, or in a part of this one.
func (p *Point) add(q Point) {
	p.Samples += q.Samples
	p.Up += q.Up
	p.OctetsIn += q.OctetsIn
	p.OctetsOut += q.OctetsOut
	p.PacketsIn += q.PacketsIn
	p.PacketsOut += q.PacketsOut
	p.Drops += q.Drops
	p.Missing += q.Missing
	p.Probes += q.Probes
	p.ProbesLost += q.ProbesLost
	p.RTT += q.RTT
	p.Jitter += q.Jitter
	p.Jitters += q.Jitters
}

// Plus is the sum of two.
func (p Point) Plus(q Point) Point {
	p.add(q)
	return p
}

func (p *Point) counted() bool {
	return p.OctetsIn|p.OctetsOut|p.PacketsIn|p.PacketsOut|p.Drops != 0
}

func (p *Point) measured() bool {
	return p.Missing|p.Probes|p.ProbesLost|p.RTT|p.Jitter|p.Jitters != 0
}

// A block begins with an octet that is zero, which none did before points had figures of
// probes: those have two flags. A point is encoded as a number with three flags, whether
// something was counted, whether not every look found it up, and whether something was
// measured, above them the steps since the point before; then the samples, and what the
// flags say follows. A tunnel that is up, idle and not probed costs two octets.
const (
	flagCounted = 1 << iota
	flagNotUp
	flagMeasured
	flagBits = iota

	formatMark   = 0
	flagBitsOnce = 2
)

// appendPoint encodes p after a point of the step before; -1: it is the first.
func appendPoint(b []byte, before int64, p Point) []byte {
	if len(b) == 0 {
		b = append(b, formatMark)
	}
	head := uint64(p.Step-max(before, 0)) << flagBits
	if p.measured() {
		head |= flagMeasured
	}
	if p.counted() {
		head |= flagCounted
	}
	if p.Up != p.Samples {
		head |= flagNotUp
	}
	b = binary.AppendUvarint(b, head)
	b = binary.AppendUvarint(b, p.Samples)
	if head&flagNotUp != 0 {
		b = binary.AppendUvarint(b, p.Up)
	}
	if head&flagCounted != 0 {
		for _, n := range []uint64{p.OctetsIn, p.OctetsOut, p.PacketsIn, p.PacketsOut, p.Drops} {
			b = binary.AppendUvarint(b, n)
		}
	}
	if head&flagMeasured != 0 {
		for _, n := range []uint64{p.Missing, p.Probes, p.ProbesLost, p.RTT, p.Jitter, p.Jitters} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b
}

var errBlock = errors.New("a block of the history is broken")

// decodeBlock returns the points of a block.
func decodeBlock(b []byte) ([]Point, error) {
	var out []Point
	var broken bool
	next := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			broken, b = true, nil
			return 0
		}
		b = b[size:]
		return n
	}
	step, bits := int64(0), flagBitsOnce
	if len(b) > 0 && b[0] == formatMark {
		b, bits = b[1:], flagBits
	}
	for len(b) > 0 {
		head := next()
		step += int64(head >> bits)
		p := Point{Step: step, Samples: next()}
		p.Up = p.Samples
		if head&flagNotUp != 0 {
			p.Up = next()
		}
		if head&flagCounted != 0 {
			for _, n := range []*uint64{&p.OctetsIn, &p.OctetsOut, &p.PacketsIn, &p.PacketsOut, &p.Drops} {
				*n = next()
			}
		}
		if bits == flagBits && head&flagMeasured != 0 {
			for _, n := range []*uint64{&p.Missing, &p.Probes, &p.ProbesLost, &p.RTT, &p.Jitter, &p.Jitters} {
				*n = next()
			}
		}
		if broken {
			return out, errBlock
		}
		out = append(out, p)
	}
	return out, nil
}
