package history

import (
	"encoding/hex"
	"slices"
	"testing"
)

// What was written before points had figures of probes is read as it was, and goes on in
// the form of now.
func TestFormerBlocks(t *testing.T) {
	// Steps 29500000 and 29500001, as the version before wrote them: 6 looks, up at each,
	// 1000 octets in, 2000 out, 10 and 20 packets; then 6 looks, up at 4.
	former, err := hex.DecodeString("8193a23806" + "e807d00f0a1400" + "060604")
	if err != nil {
		t.Fatal(err)
	}
	want := []Point{
		{Step: 29500000, Samples: 6, Up: 6, OctetsIn: 1000, OctetsOut: 2000, PacketsIn: 10, PacketsOut: 20},
		{Step: 29500001, Samples: 6, Up: 4},
	}
	got, err := decodeBlock(former)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	want = append(want, Point{Step: 29500003, Samples: 1, Up: 1, Missing: 1, Probes: 20, ProbesLost: 2, RTT: 9000, Jitter: 80, Jitters: 17})
	var b []byte
	last := int64(-1)
	for _, p := range want {
		b = appendPoint(b, last, p)
		last = p.Step
	}
	if got, err := decodeBlock(b); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
