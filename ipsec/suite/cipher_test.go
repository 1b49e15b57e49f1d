package suite

import (
	"bytes"
	"crypto/cipher"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// RFC 3686, Section 6: all nine.
func TestRFC3686(t *testing.T) {
	single, counting := []byte("Single block msg"), make([]byte, 36)
	for i := range counting {
		counting[i] = byte(i)
	}
	for n, v := range []struct {
		key, nonce, iv string
		text           []byte
		want           string
	}{
		{"AE6852F8121067CC4BF7A5765577F39E", "00000030", "0000000000000000", single, "E4095D4FB7A7B3792D6175A3261311B8"},
		{"7E24067817FAE0D743D6CE1F32539163", "006CB6DB", "C0543B59DA48D90B", counting[:32], "5104A106168A72D9790D41EE8EDAD388EB2E1EFC46DA57C8FCE630DF9141BE28"},
		{"7691BE035E5020A8AC6E618529F9A0DC", "00E0017B", "27777F3F4A1786F0", counting, "C1CF48A89F2FFDD9CF4652E9EFDB72D74540A42BDE6D7836D59A5CEAAEF3105325B2072F"},
		{"16AF5B145FC9F579C175F93E3BFB0EED863D06CCFDB78515", "00000048", "36733C147D6D93CB", single, "4B55384FE259C9C84E7935A003CBE928"},
		{"7C5CB2401B3DC33C19E7340819E0F69C678C3DB8E6F6A91A", "0096B03B", "020C6EADC2CB500D", counting[:32], "453243FC609B23327EDFAAFA7131CD9F8490701C5AD4A79CFC1FE0FF42F4FB00"},
		{"02BF391EE8ECB159B959617B0965279BF59B60A786D3E0FE", "0007BDFD", "5CBD60278DCC0912", counting, "96893FC55E5C722F540B7DD1DDF7E758D288BC95C69165884536C811662F2188ABEE0935"},
		{"776BEFF2851DB06F4C8A0542C8696F6C6A81AF1EEC96B4D37FC1D689E6C1C104", "00000060", "DB5672C97AA8F0B2", single, "145AD01DBF824EC7560863DC71E3E0C0"},
		{"F6D66D6BD52D59BB0796365879EFF886C66DD51A5B6A99744B50590C87A23884", "00FAAC24", "C1585EF15A43D875", counting[:32], "F05E231B3894612C49EE000B804EB2A9B8306B508F839D6A5530831D9344AF1C"},
		{"FF7A617CE69148E4F1726E2F43581DE2AA62D9F805532EDFF1EED687FB54153D", "001CC5B7", "51A51D70A1C11148", counting, "EB6C52821D0BBBF7CE7594462ACA4FAAB407DF866569FD07F48CC0B583D6071F1EC0E6B8"},
	} {
		c, err := NewCTR(unhex(v.key), unhex(v.nonce))
		if err != nil {
			t.Fatal(err)
		}
		got := bytes.Clone(v.text)
		c.Crypt(got, got, unhex(v.iv))
		if !bytes.Equal(got, unhex(v.want)) {
			t.Errorf("vector %d: %x, want %s", n+1, got, v.want)
		}
		back := make([]byte, len(got))
		c.Crypt(back, got, unhex(v.iv))
		if !bytes.Equal(back, v.text) {
			t.Errorf("vector %d: decrypts to %x", n+1, back)
		}
	}
}

func TestNewCTRLengths(t *testing.T) {
	for _, n := range [][2]int{{15, 4}, {16, 3}, {16, 5}, {33, 4}, {0, 0}} {
		if _, err := NewCTR(make([]byte, n[0]), make([]byte, n[1])); err == nil {
			t.Errorf("a key of %d and a nonce of %d octets are accepted", n[0], n[1])
		}
	}
}

// RFC 3566, Section 4.2, and RFC 4434, Section 3.
func TestXCBC(t *testing.T) {
	counting := make([]byte, 34)
	for i := range counting {
		counting[i] = byte(i)
	}
	key := counting[:16]
	for _, v := range []struct {
		name    string
		id      wire.PRFID
		key     []byte
		message []byte
		want    string
	}{
		{"empty", 0, key, nil, "75f0251d528ac01c4573dfd584d79f29"},
		{"3 octets", 0, key, counting[:3], "5b376580ae2f19afe7219ceef172756f"},
		{"16 octets", 0, key, counting[:16], "d2a246fa349b68a79998a4394ff7a263"},
		{"20 octets", 0, key, counting[:20], "47f51b4564966215b8985c63055ed308"},
		{"32 octets", 0, key, counting[:32], "f54f0ec8d2b9f3d36807734bd5283fd4"},
		{"34 octets", 0, key, counting, "becbb3bccdb518a30677d5481fb6b4d8"},
		{"1000 octets", 0, key, make([]byte, 1000), "f0dafee895db30253761103b5d84528f"},
		{"PRF, key of 16 octets", wire.PRFAES128XCBC, key, counting[:20], "47f51b4564966215b8985c63055ed308"},
		{"PRF, key of 10 octets", wire.PRFAES128XCBC, key[:10], counting[:20], "0fa087af7d866e7653434e602fdde835"},
		{"PRF, key of 18 octets", wire.PRFAES128XCBC, append(bytes.Clone(key), 0xed, 0xcb), counting[:20], "8cd3c93ae598a9803006ffb67c40e9e4"},
	} {
		for split := range min(len(v.message), 33) + 1 {
			var got []byte
			if v.id != 0 {
				got = PRF(v.id).Sum(v.key, v.message[:split], v.message[split:])
			} else {
				mac, err := NewMAC(wire.IntegrityAESXCBC, v.key)
				if err != nil {
					t.Fatal(err)
				}
				mac.Write(v.message[:split])
				mac.Sum(nil) // changes nothing
				mac.Write(v.message[split:])
				got = mac.Sum(nil)
			}
			if !bytes.Equal(got, unhex(v.want)) {
				t.Errorf("%s, cut at %d: %x, want %s", v.name, split, got, v.want)
			}
		}
	}
}

func TestNewMACLengths(t *testing.T) {
	for _, m := range integrities {
		for _, n := range []int{0, m.size - 1, m.size + 1} {
			if _, err := NewMAC(wire.IntegrityID(m.id), make([]byte, n)); err == nil {
				t.Errorf("%s takes a key of %d octets", m.keyword, n)
			}
		}
		if mac, err := NewMAC(wire.IntegrityID(m.id), make([]byte, m.size)); err != nil || mac.Size() != m.size {
			t.Errorf("%s: %v", m.keyword, err)
		}
	}
	if _, err := NewMAC(wire.IntegrityHMACMD5, make([]byte, 16)); err == nil {
		t.Error("HMAC-MD5 is made")
	}
}

// RFC 2202, Section 3: HMAC-SHA1, which no default offers.
func TestRFC2202(t *testing.T) {
	for n, v := range []struct {
		key, message []byte
		want         string
	}{
		{bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), "b617318655057264e28bc0b6fb378c8ef146be00"},
		{[]byte("Jefe"), []byte("what do ya want for nothing?"), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"},
		{bytes.Repeat([]byte{0xaa}, 20), bytes.Repeat([]byte{0xdd}, 50), "125d7342b9ac11cd91a39af48aa17b4f63f175d3"},
		{bytes.Repeat([]byte{0xaa}, 80), []byte("Test Using Larger Than Block-Size Key - Hash Key First"), "aa4ae5e15272d00e95705637ce8a3b55ed402112"},
	} {
		if got := PRFHMACSHA1.Sum(v.key, v.message); !bytes.Equal(got, unhex(v.want)) {
			t.Errorf("case %d: %x, want %s", n+1, got, v.want)
		}
	}
}

// Additional data from 0xff00 octets on has another length before it (NIST SP
// 800-38C, Appendix A.2.2). The answers come from another implementation.
func TestCCMLongAdditionalData(t *testing.T) {
	counting := make([]byte, 65536)
	for i := range counting {
		counting[i] = byte(i)
	}
	c, err := NewAEAD(Encryption{wire.EncryptionAESCCM8, 128}, counting[:16])
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{
		0xfeff:  "4ffd5cc7b92955a5385d533bbdd6ec",
		0xff00:  "4ffd5cc7b92955b93a48c85afa68e0",
		0x10000: "4ffd5cc7b9295589c1ccebe5fce4fc",
	} {
		got := c.Seal(nil, counting[:11], []byte("payload"), counting[:n])
		if !bytes.Equal(got, unhex(want)) {
			t.Errorf("%d octets: %x, want %s", n, got, want)
		}
	}
}

// A short tag is the beginning of the whole one, and nothing else changes (NIST
// SP 800-38D, Section 7.1).
func TestShortGCM(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
		nonce := rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "nonce")
		text := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "text")
		more := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "additional data")
		sealed := map[wire.EncryptionID][]byte{}
		for _, id := range []wire.EncryptionID{wire.EncryptionAESGCM8, wire.EncryptionAESGCM12, wire.EncryptionAESGCM16} {
			c := aeadForTest(t, Encryption{id, 256}, key)
			sealed[id] = c.Seal(nil, nonce, text, more)
		}
		whole := sealed[wire.EncryptionAESGCM16]
		if !bytes.Equal(sealed[wire.EncryptionAESGCM8], whole[:len(text)+8]) || !bytes.Equal(sealed[wire.EncryptionAESGCM12], whole[:len(text)+12]) {
			t.Errorf("%x and %x are not the beginnings of %x", sealed[wire.EncryptionAESGCM8], sealed[wire.EncryptionAESGCM12], whole)
		}
	})
}

func aeadForTest(t rapid.TB, e Encryption, key []byte) cipher.AEAD {
	t.Helper()
	c, err := NewAEAD(e, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What every combined-mode cipher owes its users: a nonce of salt and IV, an ICV
// of its length, the same in place and beside, and nothing of a forgery.
func TestAEADs(t *testing.T) {
	for _, spec := range ciphers {
		if !spec.aead() {
			continue
		}
		key := bytes.Repeat([]byte{7}, spec.keyLen)
		c := aeadForTest(t, spec.Encryption, key)
		if c.NonceSize() != spec.saltLen+spec.ivLen || c.Overhead() != spec.icvLen {
			t.Errorf("%s: nonces of %d octets and an ICV of %d", spec.keyword, c.NonceSize(), c.Overhead())
		}
		nonce, more := bytes.Repeat([]byte{3}, c.NonceSize()), []byte("more")
		for _, n := range []int{0, 1, 15, 16, 17, 31, 100, 1500} {
			text := bytes.Repeat([]byte{5}, n)
			beside := c.Seal([]byte("before"), nonce, text, more)
			buffer := append(make([]byte, 0, n+c.Overhead()), text...)
			sealed := c.Seal(buffer[:0], nonce, buffer, more)
			if &buffer[:1][0] != &sealed[0] || !bytes.Equal(append([]byte("before"), sealed...), beside) {
				t.Errorf("%s: %d octets sealed in place differ", spec.keyword, n)
			}
			opened, err := c.Open([]byte("before"), nonce, sealed, more)
			if err != nil || !bytes.Equal(opened, append([]byte("before"), text...)) {
				t.Errorf("%s: %d octets: opened %x, %v", spec.keyword, n, opened, err)
			}
			forged := bytes.Clone(sealed)
			forged[len(forged)-1] ^= 1
			if opened, err := c.Open(forged[:0], nonce, forged, more); err == nil || opened != nil || (n > 0 && !spec.espOnly && bytes.Equal(forged[:n], text)) {
				t.Errorf("%s: %d octets: a forgery gives %x, %v and leaves %x", spec.keyword, n, opened, err, forged)
			}
			if opened, err := c.Open(sealed[:0], nonce, sealed, more); err != nil || !bytes.Equal(opened, text) {
				t.Errorf("%s: %d octets opened in place: %x, %v", spec.keyword, n, opened, err)
			}
		}
		for n := range c.Overhead() {
			if _, err := c.Open(nil, nonce, make([]byte, n), more); err == nil {
				t.Errorf("%s: %d octets opened", spec.keyword, n)
			}
		}
		for _, n := range []int{0, spec.keyLen - 1, spec.keyLen + 1} {
			if _, err := NewAEAD(spec.Encryption, make([]byte, n)); err == nil {
				t.Errorf("%s takes a key of %d octets", spec.keyword, n)
			}
		}
	}
	if _, err := NewAEAD(Encryption{wire.EncryptionAESCBC, 128}, make([]byte, 16)); err == nil {
		t.Error("CBC is made as a combined-mode cipher")
	}
}

// RFC 7296, Section 2.14: of each nonce AES-XCBC-PRF-128 takes the first 64
// bits for SKEYSEED, and all bits for what follows.
func TestXCBCNonces(t *testing.T) {
	shared := make([]byte, 32)
	ni, nr := bytes.Clone(testNi), bytes.Clone(testNr)
	want := PRFAES128XCBC.Sum(append(bytes.Clone(ni[:8]), nr[:8]...), shared)
	if got := skeyseed(PRFAES128XCBC, ni, nr, shared); !bytes.Equal(got, want) {
		t.Errorf("SKEYSEED is %x, want %x", got, want)
	}
	s := IKESuite{Encryption: wire.EncryptionAESCBC, KeyBits: 128, Integrity: wire.IntegrityAESXCBC, PRF: PRFAES128XCBC, KeyExchange: wire.KeyExchangeCurve25519}
	a, err1 := DeriveIKEKeys(s, ni, nr, shared, wire.SPI{1}, wire.SPI{2})
	ni[8] ^= 1
	b, err2 := DeriveIKEKeys(s, ni, nr, shared, wire.SPI{1}, wire.SPI{2})
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if bytes.Equal(a.D, b.D) || len(a.D) != 16 || len(a.Ai) != 16 {
		t.Error("the nonces are cut for prf+ too, or keys have wrong lengths")
	}
}

// RFC 4868, Section 2.7.2: keys as long as the output, as IKE makes them. The
// integrity algorithm sends the first half. The key of AUTH512-4 is printed with
// 16 octets too many before it.
func TestRFC4868(t *testing.T) {
	ids := map[string]int{"AUTH256": 0, "AUTH384": 1, "AUTH512": 2}
	for _, v := range []struct{ name, key, data, want string }{
		{
			"AUTH256-1",
			"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
			"4869205468657265",
			"198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7",
		},
		{
			"AUTH256-2",
			"4a6566654a6566654a6566654a6566654a6566654a6566654a6566654a656665",
			"7768617420646f2079612077616e7420666f72206e6f7468696e673f",
			"167f928588c5cc2eef8e3093caa0e87c9ff566a14794aa61648d81621a2a40c6",
		},
		{
			"AUTH256-3",
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
			"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
			"cdcb1220d1ecccea91e53aba3092f962e549fe6ce9ed7fdc43191fbde45c30b0",
		},
		{
			"AUTH256-4",
			"0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
			"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
			"372efcf9b40b35c2115b1346903d2ef42fced46f0846e7257bb156d3d7b30d3f",
		},
		{
			"AUTH384-1",
			"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
			"4869205468657265",
			"b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee9737a959796489bddbc4c5df61d5b3297b4fb68dab9f1b582c2",
		},
		{
			"AUTH384-2",
			"4a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a656665",
			"7768617420646f2079612077616e7420666f72206e6f7468696e673f",
			"2c7353974f1842fd66d53c452ca42122b28c0b594cfb184da86a368e9b8e16f5349524ca4e82400cbde0686d403371c9",
		},
		{
			"AUTH384-3",
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
			"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
			"809f439be00274321d4a538652164b53554a508184a0c3160353e3428597003d35914a18770f9443987054944b7c4b4a",
		},
		{
			"AUTH384-4",
			"0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f200a0b0c0d0e0f10111213141516171819",
			"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
			"5b540085c6e6358096532b2493609ed1cb298f774f87bb5c2ebf182c83cc7428707fb92eab2536a5812258228bc96687",
		},
		{
			"AUTH512-1",
			"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
			"4869205468657265",
			"637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8ac2878ebd5803f6f0b61dbce5e251ff8789a4722c1be65aea45fd464e89f8f5b",
		},
		{
			"AUTH512-2",
			"4a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a656665",
			"7768617420646f2079612077616e7420666f72206e6f7468696e673f",
			"cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b154546aa334ae9fb9afc2184932d8695e397bfa0ffb93466cfcceaae38c833b7dba38",
		},
		{
			"AUTH512-3",
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
			"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
			"2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8623c7b55cebefccf02d5581acc1c9d5fb1ff68a1de45509fbe4da9a433922655",
		},
		{
			"AUTH512-4",
			"0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f40",
			"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
			"5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108b8c48cbc6b807dcfbd850521a685babc7eae4a2a2e660dc0e86b931d65503fd2",
		},
	} {
		i := ids[v.name[:len("AUTH256")]]
		want := unhex(v.want)
		if got := PRF(prfs[i].id).Sum(unhex(v.key), unhex(v.data)); !bytes.Equal(got, want) {
			t.Errorf("%s: PRF gives %x, want %x", v.name, got, want)
		}
		mac, err := NewMAC(wire.IntegrityID(integrities[i].id), unhex(v.key))
		if err != nil {
			t.Fatal(err)
		}
		mac.Write(unhex(v.data))
		sent := integrities[i].icvLen
		if got := mac.Sum(nil); sent != len(want)/2 || !bytes.Equal(got[:sent], want[:sent]) {
			t.Errorf("%s: integrity algorithm gives %x, %d octets sent", v.name, got, sent)
		}
	}
}
