package suite

import (
	"bytes"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// RFC 4231, Section 4: key, data and the start of the output for SHA-256,
// SHA-384 and SHA-512. Test case 5 is about truncation and left out.
func TestRFC4231(t *testing.T) {
	for n, v := range []struct {
		key, data []byte
		want      [3]string
	}{
		{bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), [3]string{
			"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
			"afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
			"87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
		}},
		{bytes.Repeat([]byte{0xaa}, 20), bytes.Repeat([]byte{0xdd}, 50), [3]string{
			"773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
			"88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
			"fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb",
		}},
		{bytes.Repeat([]byte{0xaa}, 131), []byte("Test Using Larger Than Block-Size Key - Hash Key First"), [3]string{
			"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
			"4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
			"80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
		}},
	} {
		for i, p := range []PRF{PRFHMACSHA256, PRFHMACSHA384, PRFHMACSHA512} {
			half := len(v.data) / 2
			if got := p.Sum(v.key, v.data[:half], nil, v.data[half:]); !bytes.Equal(got, unhex(v.want[i])) {
				t.Errorf("case %d: %s gives %x", n, p, got)
			}
		}
	}
}

func TestUnknownPRF(t *testing.T) {
	p := PRF(wire.PRFHMACMD5)
	if p.Size() != 0 || p.ID() != wire.PRFHMACMD5 || p.String() != wire.PRFHMACMD5.String() {
		t.Errorf("unknown PRF prints as %s with size %d", p, p.Size())
	}
	defer func() {
		if r, _ := recover().(string); !strings.Contains(r, "not implemented") {
			t.Errorf("Sum of an unknown PRF panics with %q", r)
		}
	}()
	p.Sum(nil)
}

// A wrong answer keeps an algorithm out, for good and in words.
func TestSelfTestFailure(t *testing.T) {
	spec := ciphers[0]
	spec.keyword = "aes256gcm16" // the answer of another algorithm
	if cipherAnswers(spec) {
		t.Error("a wrong answer passes")
	}
	key := testKey{kind: kindEncryption, id: 0xffff}
	runs := 0
	for range 3 {
		err := selfTest(key, func() error { runs++; return mismatch("broken") })
		if err == nil || !strings.Contains(err.Error(), "self-test of broken") {
			t.Errorf("got %v", err)
		}
	}
	if runs != 1 {
		t.Errorf("the self-test ran %d times, want once", runs)
	}
}
