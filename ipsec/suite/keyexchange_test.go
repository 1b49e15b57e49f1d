package suite

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"math/big"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ecp is a published exchange with both sides.
type ecp struct {
	id                                               wire.KeyExchangeID
	scalarI, publicI, scalarR, publicR, sharedSecret string
}

var publishedExchanges = []ecp{
	{ // RFC 8031, Appendix A
		id:           wire.KeyExchangeCurve25519,
		scalarI:      "751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94",
		publicI:      "48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766",
		scalarR:      "0a54645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05688",
		publicR:      "0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25",
		sharedSecret: "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950",
	},
	{ // RFC 5903, Section 8.1
		id:      wire.KeyExchangeECP256,
		scalarI: "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
		publicI: "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C37725811805271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
		scalarR: "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
		publicR: "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF6356FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",

		sharedSecret: "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
	},
	{ // RFC 5903, Section 8.2
		id:      wire.KeyExchangeECP384,
		scalarI: "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
		publicI: "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA" +
			"9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
		scalarR: "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
		publicR: "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571" +
			"DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
		sharedSecret: "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
	},
	{ // RFC 5903, Section 8.3
		id:      wire.KeyExchangeECP521,
		scalarI: "0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072462F68C27A57382D4A52",
		publicI: "0015417E84DBF28C0AD3C278713349DC7DF153C897A1891BD98BAB4357C9ECBEE1E3BF42E00B8E380AEAE57C2D107564941885942AF5A7F4601723C4195D176CED3E" +
			"017CAE20B6641D2EEB695786D8C946146239D099E18E1D5A514C739D7CB4A10AD8A788015AC405D7799DC75E7B7D5B6CF2261A6A7F1507438BF01BEB6CA3926F9582",
		scalarR: "0145BA99A847AF43793FDD0E872E7CDFA16BE30FDC780F97BCCC3F078380201E9C677D600B343757A3BDBF2A3163E4C2F869CCA7458AA4A4EFFC311F5CB151685EB9",
		publicR: "00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433CED2B6171640012D9460F" +
			"015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86D678AE49CB57091F4732296579AB44FCD17F0FC56A",
		sharedSecret: "01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151F2BEE417996D19F3DDEA",
	},
}

func TestPublishedExchanges(t *testing.T) {
	for _, v := range publishedExchanges {
		i, err := NewKeyExchange(v.id, bytes.NewReader(unhex(v.scalarI)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := NewKeyExchange(v.id, bytes.NewReader(unhex(v.scalarR)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(i.Public(), unhex(v.publicI)) || !bytes.Equal(r.Public(), unhex(v.publicR)) {
			t.Errorf("%s: public values %x and %x", v.id, i.Public(), r.Public())
		}
		a, err1 := i.Shared(r.Public())
		b, err2 := r.Shared(i.Public())
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) || !bytes.Equal(a, unhex(v.sharedSecret)) {
			t.Errorf("%s: shared secrets %x (%v) and %x (%v)", v.id, a, err1, b, err2)
		}
		if i.Group() != v.id {
			t.Errorf("Group is %s, want %s", i.Group(), v.id)
		}
		i.Destroy()
		if _, err := i.Shared(r.Public()); err == nil || errors.Is(err, ErrInvalidPublicValue) {
			t.Errorf("%s: use after Destroy gives %v", v.id, err)
		}
	}
}

// Points off the curve leak the private value where it is used again, points
// of small order make the secret known (RFC 6989, Section 2.3; RFC 7748,
// Section 6.1).
func TestInvalidPublicValues(t *testing.T) {
	for id, values := range map[wire.KeyExchangeID][][]byte{
		wire.KeyExchangeCurve25519: smallOrder25519(),
		wire.KeyExchangeECP256:     offCurve(elliptic.P256(), 32),
		wire.KeyExchangeECP384:     offCurve(elliptic.P384(), 48),
		wire.KeyExchangeECP521:     offCurve(elliptic.P521(), 66),
	} {
		k, err := NewKeyExchange(id, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		spec, _ := groupOf(id)
		for _, n := range []int{0, 1, spec.publicLen - 1, spec.publicLen + 1, 2 * spec.publicLen} {
			values = append(values, make([]byte, n), bytes.Repeat([]byte{2}, n))
		}
		// Encodings of points that IKE does not use.
		values = append(values, append([]byte{4}, k.Public()...), append([]byte{2}, k.Public()[:spec.sharedLen]...))
		for _, v := range values {
			if shared, err := k.Shared(v); !errors.Is(err, ErrInvalidPublicValue) {
				t.Errorf("%s: value %x gives %x, %v", id, v, shared, err)
			}
		}
	}
}

// smallOrder25519 are the u coordinates, reduced and not, of points whose
// order divides the cofactor 8, on the curve and on its twist.
func smallOrder25519() [][]byte {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	us := []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(p, big.NewInt(1)), p, new(big.Int).Add(p, big.NewInt(1))}
	for _, s := range []string{ // of order 8
		"325606250916557431795983626356110631294008115727848805560023387167927233504",
		"39382357235489614581723060781553021112529911719440698176882885853963445705823",
	} {
		u, _ := new(big.Int).SetString(s, 10)
		us = append(us, u)
	}
	var out [][]byte
	for _, u := range us {
		b := u.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		high := slices.Clone(b)
		high[31] |= 0x80 // the unused bit is ignored (RFC 7748, Section 5)
		out = append(out, b, high)
	}
	return out
}

// RFC 8031, Section 3.2: the highest bit does not count, and values that are
// not reduced are accepted.
func TestX25519NonCanonical(t *testing.T) {
	k, err := NewKeyExchange(wire.KeyExchangeCurve25519, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	nine := append([]byte{9}, make([]byte, 31)...) // the base point
	want, err := k.Shared(nine)
	if err != nil {
		t.Fatal(err)
	}
	high := slices.Clone(nine)
	high[31] = 0x80
	unreduced := bytes.Repeat([]byte{0xff}, 32) // 2^255 - 19 + 9
	unreduced[0], unreduced[31] = 0xf6, 0x7f
	for _, v := range [][]byte{high, unreduced} {
		if got, err := k.Shared(v); err != nil || !bytes.Equal(got, want) {
			t.Errorf("value %x gives %x, %v, want the secret of the base point", v, got, err)
		}
	}
}

// offCurve combines the edges of the coordinate range; none is a point.
func offCurve(c elliptic.Curve, n int) [][]byte {
	p := c.Params().P
	edges := []*big.Int{
		big.NewInt(0), big.NewInt(1), new(big.Int).Sub(p, big.NewInt(1)), p,
		new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*n)), big.NewInt(1)),
	}
	var out [][]byte
	for _, x := range edges {
		for _, y := range edges {
			out = append(out, append(x.FillBytes(make([]byte, n)), y.FillBytes(make([]byte, n))...))
		}
	}
	// A point with one bit changed, and one with a coordinate that is not
	// reduced.
	g := append(c.Params().Gx.FillBytes(make([]byte, n)), c.Params().Gy.FillBytes(make([]byte, n))...)
	g[len(g)-1] ^= 1
	return append(out, g)
}

func TestNewKeyExchangeRandomness(t *testing.T) {
	good := unhex(publishedExchanges[1].scalarI)
	tooLarge := bytes.Repeat([]byte{0xff}, 32)
	k, err := NewKeyExchange(wire.KeyExchangeECP256, bytes.NewReader(slices.Concat(make([]byte, 32), tooLarge, good)))
	if err != nil || !bytes.Equal(k.Public(), unhex(publishedExchanges[1].publicI)) {
		t.Errorf("scalars out of range are not skipped: %v", err)
	}
	for name, r := range map[string]io.Reader{
		"short": bytes.NewReader(good[:31]),
		"stuck": bytes.NewReader(make([]byte, 1000)),
	} {
		if _, err := NewKeyExchange(wire.KeyExchangeECP256, r); err == nil {
			t.Errorf("%s randomness is accepted", name)
		}
	}
	if _, err := NewKeyExchange(wire.KeyExchangeMODP1024, rand.Reader); err == nil {
		t.Error("an unknown group is accepted")
	}
	// 521 bits of 528: the others are dropped, so that few scalars are out of
	// range.
	scalar := unhex(publishedExchanges[3].scalarI)
	scalar[0] |= 0xfe
	k, err = NewKeyExchange(wire.KeyExchangeECP521, bytes.NewReader(scalar))
	if err != nil || !bytes.Equal(k.Public(), unhex(publishedExchanges[3].publicI)) {
		t.Errorf("the high bits of a scalar count: %v", err)
	}
}

func FuzzShared(f *testing.F) {
	for _, v := range publishedExchanges {
		f.Add(unhex(v.publicR))
	}
	var ks []*KeyExchange
	for _, g := range groups {
		k, err := NewKeyExchange(g.id, rand.Reader)
		if err != nil {
			f.Fatal(err)
		}
		ks = append(ks, k)
	}
	f.Fuzz(func(t *testing.T, peer []byte) {
		for _, k := range ks {
			shared, err := k.Shared(peer)
			if err == nil && (len(shared) != k.group.sharedLen || isZero(shared)) {
				t.Errorf("%s: value %x gives secret %x", k.Group(), peer, shared)
			}
			if err != nil && !errors.Is(err, ErrInvalidPublicValue) {
				t.Errorf("%s: %v", k.Group(), err)
			}
		}
	})
}
