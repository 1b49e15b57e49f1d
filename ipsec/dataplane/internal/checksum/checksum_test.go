package checksum

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// naive is RFC 1071, Section 4.1, word for word.
func naive(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
		sum = sum>>16 + sum&0xffff
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestAddMatchesNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 65536+64)
	for i := range buf {
		buf[i] = byte(rng.Uint32())
	}
	lengths := []int{65535, 65536, 1400, 1500, 9000}
	for n := range 300 {
		lengths = append(lengths, n)
	}
	for _, n := range lengths {
		for _, off := range []int{0, 1, 3, 31} {
			b := buf[off : off+n]
			if got, want := Fold(Add(b, 0)), naive(b); got != want {
				t.Fatalf("length %d offset %d: got %#04x, want %#04x", n, off, got, want)
			}
		}
	}
	for i := range buf {
		buf[i] = 0xff
	}
	if got := Fold(Add(buf, 0)); got != 0xffff {
		t.Fatalf("all ones: got %#04x", got)
	}
}

// TestBlocksMatchGeneric holds the assembly, where this machine runs it, to the
// portable version.
func TestBlocksMatchGeneric(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		b := make([]byte, 64*(1+rng.IntN(40)))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if got, want := addBlocks(b), addBlocksGeneric(b); got != want {
			t.Fatalf("length %d: got %#x, want %#x", len(b), got, want)
		}
	}
}

func TestPseudo(t *testing.T) {
	ip4 := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2}
	want := naive([]byte{192, 0, 2, 1, 198, 51, 100, 2, 0, 17, 0, 8})
	if got := Fold(PseudoIPv4(ip4, 17, 8)); got != want {
		t.Errorf("IPv4: got %#04x, want %#04x", got, want)
	}
	ip6 := make([]byte, 40)
	for i := range ip6 {
		ip6[i] = byte(i * 7)
	}
	b := append(append([]byte(nil), ip6[8:]...), 0, 0, 0xab, 0xcd, 0, 0, 0, 6)
	if got, want := Fold(PseudoIPv6(ip6, 6, 0xabcd)), naive(b); got != want {
		t.Errorf("IPv6: got %#04x, want %#04x", got, want)
	}
}

func BenchmarkAdd1400(b *testing.B) {
	buf := make([]byte, 1400)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		Add(buf, 0)
	}
}
