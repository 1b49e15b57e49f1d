package wan

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var start = time.Unix(1_000_000, 0)

// trip is when each frame came out, by its number.
func trip(p *path, frames int, every time.Duration) map[uint32]time.Duration {
	out := map[uint32]time.Duration{}
	for i := range time.Duration(frames) {
		p.put(start.Add(i*every), binary.BigEndian.AppendUint32(make([]byte, 996), uint32(i)))
	}
	for {
		at, ok := p.next()
		if !ok {
			return out
		}
		for _, f := range p.due(at) {
			number := binary.BigEndian.Uint32(f[996:])
			out[number] = at.Sub(start) - time.Duration(number)*every
		}
	}
}

func TestDelayAndJitter(t *testing.T) {
	p := newPath(1)
	p.is = Conditions{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}
	least, most := time.Hour, time.Duration(0)
	took := trip(p, 1000, time.Second)
	for _, d := range took {
		least, most = min(least, d), max(most, d)
	}
	if len(took) != 1000 || least < 20*time.Millisecond || least > 21*time.Millisecond || most > 30*time.Millisecond || most < 29*time.Millisecond {
		t.Errorf("%d frames took %s to %s", len(took), least, most)
	}
}

func TestLoss(t *testing.T) {
	p := newPath(1)
	p.is = Conditions{Loss: 0.1}
	took := trip(p, 10000, time.Millisecond)
	if n := 10000 - len(took); n < 900 || n > 1100 || p.counters.Lost != uint64(n) || p.counters.Delivered != uint64(len(took)) {
		t.Errorf("%d lost, %+v", n, p.counters)
	}
	p.is = Conditions{Blackout: true}
	if took := trip(p, 100, time.Millisecond); len(took) != 0 {
		t.Errorf("%d frames in a blackout", len(took))
	}
}

// In bursts as many frames are lost, in runs of the length that was asked for.
func TestBursts(t *testing.T) {
	p := newPath(1)
	p.is = Conditions{Loss: 0.1, Burst: 5}
	const frames = 50000
	took := trip(p, frames, time.Millisecond)
	lost, runs := frames-len(took), 0
	for i := uint32(1); i < frames; i++ {
		_, here := took[i]
		if _, before := took[i-1]; before && !here {
			runs++
		}
	}
	if part, burst := float64(lost)/frames, float64(lost)/float64(runs); part < 0.09 || part > 0.11 || burst < 4.6 || burst > 5.4 {
		t.Errorf("%.3f of the frames are lost, in bursts of %.1f", part, burst)
	}
	p.is.Loss = 1
	if took := trip(p, 100, time.Millisecond); len(took) != 0 {
		t.Errorf("%d frames came", len(took))
	}
}

func TestLateAndTwice(t *testing.T) {
	p := newPath(1)
	p.is = Conditions{Delay: 5 * time.Millisecond, Late: 0.2, LateBy: 30 * time.Millisecond, Twice: 0.1}
	late := 0
	for _, d := range trip(p, 1000, 10*time.Millisecond) {
		switch d {
		case 5 * time.Millisecond:
		case 35 * time.Millisecond:
			late++
		default:
			t.Fatalf("a frame took %s", d)
		}
	}
	if late < 160 || late > 240 || p.counters.Doubled < 70 || p.counters.Doubled > 130 || p.counters.Delivered != 1000+p.counters.Doubled {
		t.Errorf("%d of 1,000 are late, %+v", late, p.counters)
	}
}

// What is too long is lost, by itself or as what a frame will be cut into.
func TestMTU(t *testing.T) {
	p := newPath(1)
	p.is = Conditions{MTU: 1400}
	whole := func(length int) []byte { return make([]byte, vnetHeaderLen+ethernetHeaderLen+length) }
	toCut := func(length int) []byte {
		f := whole(40000)
		f[1] = unix.VIRTIO_NET_HDR_GSO_TCPV4
		binary.NativeEndian.PutUint16(f[2:], ethernetHeaderLen+40)
		binary.NativeEndian.PutUint16(f[4:], uint16(length-40))
		return f
	}
	for _, f := range [][]byte{whole(1401), toCut(1401), whole(1400), toCut(1400), {1, 2, 3}} {
		p.put(start, f)
	}
	if p.counters.Delivered != 3 || p.counters.TooLong != 2 {
		t.Errorf("%+v", p.counters)
	}
}

// A frame of 1000 octets takes 8 ms at 1 Mbit/s; what comes faster waits, and at last is
// lost.
func TestRate(t *testing.T) {
	p := newPath(1)
	p.is = Conditions{Rate: 1_000_000, Queue: 20 * time.Millisecond}
	took := trip(p, 5, 0)
	for number, want := range []time.Duration{8, 16, 24, 0, 0} {
		if d := took[uint32(number)]; d != want*time.Millisecond {
			t.Errorf("frame %d took %s, want %d ms", number, d, want)
		}
	}
	if p.counters.Overflowed != 2 {
		t.Errorf("%+v", p.counters)
	}
}

// Nothing is invented, doubled or overtaken, whatever the conditions.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(rapid.Uint64().Draw(t, "seed"))
		span := rapid.Int64Range(0, int64(50*time.Millisecond))
		var in, out [][]byte
		now := start
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			p.is = Conditions{
				Delay: time.Duration(span.Draw(t, "delay")), Jitter: time.Duration(span.Draw(t, "jitter")),
				Loss: rapid.Float64Range(0, 1).Draw(t, "loss"), Burst: rapid.Float64Range(0, 5).Draw(t, "burst"), Rate: rapid.Int64Range(0, 1e6).Draw(t, "rate"),
				Blackout: rapid.Bool().Draw(t, "blackout"),
			}
			frame := binary.BigEndian.AppendUint32(nil, uint32(len(in)))
			in = append(in, frame)
			p.put(now, frame)
			now = now.Add(time.Duration(span.Draw(t, "pause")))
			out = append(out, p.due(now)...)
		}
		out = append(out, p.due(now.Add(time.Hour))...)
		if uint64(len(out)) != p.counters.Delivered || len(in) != len(out)+int(p.counters.Lost+p.counters.Overflowed) {
			t.Fatalf("%d in, %d out, %+v", len(in), len(out), p.counters)
		}
		for i := 1; i < len(out); i++ {
			if bytes.Compare(out[i-1], out[i]) >= 0 {
				t.Fatalf("frame %x after %x", out[i], out[i-1])
			}
		}
	})
}
