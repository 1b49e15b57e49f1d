package ike

import (
	"bytes"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Even a peer that has keys cannot make reassembly keep more than its bounds (RFC
// 7383, Section 2.6).
func TestReassemblyIsBounded(t *testing.T) {
	sa := &ikeSA{m: &machine{}, fragment: true}
	add := func(number, total, size int) ([]byte, error) {
		p := &wire.EncryptedFragment{FirstInner: wire.PayloadIDi, Number: uint16(number), Total: uint16(total)}
		_, whole, err := sa.reassemble(wire.Header{MessageID: 1}, p, bytes.Repeat([]byte{byte(number)}, size), []byte{byte(number)})
		return whole, err
	}
	refused := func(what string, number, total, size int) {
		t.Helper()
		before := sa.reassembly.size
		if _, err := add(number, total, size); err == nil || sa.reassembly.size != before {
			t.Errorf("%s: %d octets are kept, before %d; error %v", what, sa.reassembly.size, before, err)
		}
	}
	refused("too many fragments", 1, maxFragments+1, 1)
	refused("as many as the field can say", 65535, 65535, 1)
	sa.fragment = false
	refused("fragments that were not negotiated", 1, 2, 10)
	sa.fragment = true
	for number := 1; number < maxFragments; number++ {
		add(number, maxFragments, 2000)
		if sa.reassembly.size > maxReassembled {
			t.Fatalf("%d octets are kept, the bound is %d", sa.reassembly.size, maxReassembled)
		}
	}
	refused("a fragment beyond the bound", maxFragments, maxFragments, 2000)

	sa.reassembly = reassembly{}
	add(1, 2, 10)
	refused("the same again", 1, 2, 10)
	add(2, 3, 5) // smaller pieces: anew
	refused("larger pieces after that", 2, 2, 10)
	add(3, 3, 5)
	whole, err := add(1, 3, 5)
	if want := []byte("\x01\x01\x01\x01\x01\x02\x02\x02\x02\x02\x03\x03\x03\x03\x03"); err != nil || !bytes.Equal(whole, want) {
		t.Errorf("reassembled %x, %v, want %x", whole, err, want)
	}
}
