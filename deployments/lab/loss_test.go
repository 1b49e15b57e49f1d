package lab_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLossIsFound has the report of a loss tell which packets were on the wire, of two SAs
// and with padding, from nothing but their lengths and their order.
func TestLossIsFound(t *testing.T) {
	const sent, rekeyAt, overhead, block = 400, 130, 98, 16
	before, after := []int{57, 129, 130, 131, 399}, []int{90, 132, 300, 301, 302}
	begin := time.Unix(1_700_000_000, 0)
	var wire []passage
	c := flowCount{sent: sent}
	for number := range sent {
		at := begin.Add(time.Duration(number) * flowInterval)
		if slices.Contains(before, number) || slices.Contains(after, number) {
			c.lost++
			c.which, c.when = append(c.which, number), append(c.when, at)
		}
		if slices.Contains(before, number) {
			continue
		}
		spi, seq := uint32(0xa), uint32(number+1)
		if number >= rekeyAt {
			spi, seq = 0xb, uint32(number-rekeyAt+1)
		}
		p, is := readPassage(frameOfESP(spi, seq, overhead+(flowLength(number)+block-1)/block*block))
		if !is {
			t.Fatal("ESP in a frame is not found")
		}
		wire = append(wire, p)
	}
	var found []uint32
	for _, p := range seenOnWire(c, wire) {
		found = append(found, p.seq)
	}
	want := []uint32{91, 3, 171, 172, 173}
	if !slices.Equal(found, want) {
		t.Errorf("on the wire were numbers %d of the lost ones, want %d; the report:%s", found, want, whereLost(c, wire))
	}
}

// frameOfESP is a frame of the cable of a length with the beginning of ESP in it.
func frameOfESP(spi, seq uint32, length int) []byte {
	const ip = vnetHeader + 14
	b := make([]byte, length)
	b[ip], b[ip+9] = 0x45, unix.IPPROTO_ESP
	binary.BigEndian.PutUint32(b[ip+20:], spi)
	binary.BigEndian.PutUint32(b[ip+24:], seq)
	return b
}
