package lab_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// scapyScript seals and opens with scapy what the test gives it, and says for each
// case what came of it.
const scapyScript = `
import json, sys
from scapy.all import IP, IPv6, raw
from scapy.layers.ipsec import SecurityAssociation, ESP, AH

def parse(b):
    return IP(b) if b[0] >> 4 == 4 else IPv6(b)

def run(c):
    h = bytes.fromhex
    optional = {}
    if c["Crypt"]:
        optional.update(crypt_algo=c["Crypt"], crypt_key=h(c["CryptKey"]))
        if c["ICV"]:
            optional.update(crypt_icv_size=c["ICV"])
    if c["Auth"]:
        optional.update(auth_algo=c["Auth"], auth_key=h(c["AuthKey"]))
    if c["Outer"]:
        optional.update(tunnel_header=parse(h(c["Outer"])))
    sa = SecurityAssociation(AH if c["AH"] else ESP, spi=c["SPI"], seq_num=c["Low"],
        esn_en=c["ESN"], esn=c["High"], **optional)
    sealed = sa.encrypt(parse(h(c["Packet"])))
    opened = sa.decrypt(parse(h(c["Sealed"])))
    return {"Sealed": raw(sealed).hex(), "Opened": raw(opened).hex()}

def result(c):
    try:
        return run(c)
    except Exception as e:
        return {"Error": "%s: %s" % (type(e).__name__, e)}

with open("/run/lab/cases.json") as f:
    cases = json.load(f)
json.dump([result(c) for c in cases], sys.stdout)
`

type scapyCase struct {
	name  string
	suite suite.ESPSuite
	key   []byte
	plain []byte

	AH, ESN               bool
	SPI, Low, High        uint32
	Crypt, CryptKey       string
	ICV                   int
	Auth, AuthKey         string
	Outer, Packet, Sealed string // in tunnel mode the header of Sealed
}

type scapyResult struct{ Sealed, Opened, Error string }

// The transforms by the names that scapy has. It has no AES-XCBC, and AES-GCM with an ICV
// of 16 octets alone: of a shorter one it takes no notice.
var (
	scapyCrypt = map[wire.EncryptionID]string{
		wire.EncryptionAESGCM16: "AES-GCM",
		wire.EncryptionAESCCM8:  "AES-CCM", wire.EncryptionAESCCM12: "AES-CCM", wire.EncryptionAESCCM16: "AES-CCM",
		wire.EncryptionChaCha20Poly1305: "CHACHA20-POLY1305", wire.EncryptionNullAESGMAC: "AES-NULL-GMAC",
		wire.EncryptionAESCBC: "AES-CBC", wire.EncryptionAESCTR: "AES-CTR", wire.EncryptionNull: "NULL",
	}
	scapyAuth = map[wire.IntegrityID]string{
		wire.IntegrityHMACSHA1: "HMAC-SHA1-96", wire.IntegrityHMACSHA256: "SHA2-256-128",
		wire.IntegrityHMACSHA384: "SHA2-384-192", wire.IntegrityHMACSHA512: "SHA2-512-256",
	}
)

// TestInteropScapy compares every transform of ESP and AH that scapy has with scapy's,
// each way: what either seals the other opens.
func TestInteropScapy(t *testing.T) {
	lab.Require(t)
	tree, err := lab.OpenTree(lab.TreeScapy)
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	cases := scapyCases(t)
	// 13 ciphers that are whole by themselves, 7 with each of 4 integrity algorithms, in 4
	// ways, 4 suites of AH in 8, each with and without extended sequence numbers.
	if want := 2 * (4*(13+7*4) + 8*4); len(cases) != want {
		t.Errorf("%d cases, want %d", len(cases), want)
	}
	results := runScapy(t, tree, cases)
	if len(results) != len(cases) {
		t.Fatalf("%d results of %d cases", len(results), len(cases))
	}
	for i, c := range cases {
		r := results[i]
		if r.Error != "" {
			t.Errorf("%s: scapy: %s", c.name, r.Error)
			continue
		}
		if want := hex.EncodeToString(c.plain); r.Opened != want {
			t.Errorf("%s: scapy opened\n%s, want\n%s", c.name, r.Opened, want)
		}
		if err := c.open(t, r.Sealed); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	t.Logf("%d cases", len(cases))
}

func runScapy(t *testing.T, tree lab.Tree, cases []*scapyCase) []scapyResult {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"cases.json": text, "oracle.py": []byte(scapyScript)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	argv := tree.Command(dir, "python3", lab.TreeMount+"/oracle.py")
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run scapy: %v\n%s", err, problems.Bytes())
	}
	var results []scapyResult
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatalf("result of scapy: %v\n%s", err, out)
	}
	return results
}

// scapyCases are all suites that scapy has, with and without extended sequence numbers,
// IPv4 and IPv6 in each; ESP in tunnel mode, of which the transform knows nothing, AH in
// both, and in transport mode with headers that are read on the way too.
func scapyCases(t *testing.T) []*scapyCase {
	t.Helper()
	var cases []*scapyCase
	add := func(s suite.ESPSuite) {
		if s.Validate() != nil {
			return
		}
		for _, esn := range []bool{false, true} {
			s.ESN = esn
			for _, inner := range []byte{4, 6} {
				cases = append(cases, newScapyCase(t, s, inner, 4), newScapyCase(t, s, inner, 6))
				if s.AH {
					cases = append(cases, newScapyCase(t, s, inner, 0), scapyCaseOf(t, s, wayPacket(inner), inner, 0))
				}
			}
		}
	}
	for id := range scapyAuth {
		add(suite.ESPSuite{AH: true, Integrity: id})
	}
	for id := range scapyCrypt {
		for _, bits := range []uint16{0, 128, 192, 256} {
			add(suite.ESPSuite{Encryption: id, KeyBits: bits})
			for auth := range scapyAuth {
				add(suite.ESPSuite{Encryption: id, KeyBits: bits, Integrity: auth})
			}
		}
	}
	return cases
}

// innerPacket is UDP in IPv4 or IPv6; outerHeader what a packet in it has before it.
func innerPacket(version byte, n int) []byte {
	b := outerHeader(version, 17, 8+n)
	udp := append([]byte{0x13, 0x88, 0x13, 0x89, 0, byte(8 + n), 0, 0}, bytes.Repeat([]byte{0x5a}, n)...)
	return append(b, udp...)
}

// wayPacket is such a packet with headers of which AH covers some as they are and others as
// zeros (RFC 4302, Appendix A).
func wayPacket(version byte) []byte {
	b := innerPacket(version, 21)
	if version == 6 {
		b = slices.Insert(b, 40, []byte{60, 1, 0x1e, 4, 'a', 'b', 'c', 'd', 0x3e, 4, 1, 2, 3, 4, 1, 0, 17, 0, 0x3e, 4, 'e', 'f', 'g', 'h'}...)
		b[5], b[6] = byte(len(b)-40), 0
		return b
	}
	b = slices.Insert(b, 20, []byte{148, 4, 0, 0, 7, 7, 8, 192, 0, 2, 1, 1, 68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}...)
	b[0], b[3], b[10], b[11] = 0x4b, byte(len(b)), 0, 0
	setChecksum(b[:44])
	return b
}

func outerHeader(version, protocol byte, n int) []byte {
	if version == 6 {
		b := append([]byte{0x60, 0, 0, 0, 0, byte(n), protocol, 64}, bytes.Repeat([]byte{0x20}, 16)...)
		return append(b, bytes.Repeat([]byte{0x30}, 16)...)
	}
	b := []byte{0x45, 0, 0, byte(20 + n), 0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7}
	setChecksum(b)
	return b
}

// setChecksum is of an IPv4 header that has none.
func setChecksum(b []byte) {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
}

func newScapyCase(t *testing.T, s suite.ESPSuite, inner, outer byte) *scapyCase {
	t.Helper()
	return scapyCaseOf(t, s, innerPacket(inner, 21), inner, outer)
}

func scapyCaseOf(t *testing.T, s suite.ESPSuite, plain []byte, inner, outer byte) *scapyCase {
	t.Helper()
	c := &scapyCase{
		name:  fmt.Sprintf("%s, IPv%d of %d octets in %d", s, inner, len(plain), outer),
		suite: s, key: make([]byte, s.KeyLen()), plain: plain,
		AH: s.AH, ESN: s.ESN, SPI: 0x1234, Low: 7,
		Crypt: scapyCrypt[s.Encryption], Auth: scapyAuth[s.Integrity],
	}
	if s.ESN {
		c.High = 3
	}
	for i := range c.key {
		c.key[i] = byte(i + 1)
	}
	cut := s.EncryptionKeyLen()
	c.CryptKey, c.AuthKey = hex.EncodeToString(c.key[:cut]), hex.EncodeToString(c.key[cut:])
	if s.AH {
		c.Crypt = ""
	}
	if s.AEAD() {
		c.ICV = s.ICVLen()
	}
	protocol := byte(4)
	if inner == 6 {
		protocol = 41
	}
	c.Packet = hex.EncodeToString(c.plain)
	if outer != 0 {
		c.Outer = hex.EncodeToString(outerHeader(outer, protocol, 0))
	}
	c.Sealed = hex.EncodeToString(c.seal(t, protocol, outer))
	return c
}

func (c *scapyCase) config() esp.Config {
	return esp.Config{SPI: c.SPI, Suite: c.suite, Key: slices.Clone(c.key)}
}

func (c *scapyCase) before() uint64 { return uint64(c.High)<<32 | uint64(c.Low-1) }

// seal is our half of the comparison.
func (c *scapyCase) seal(t *testing.T, protocol, outer byte) []byte {
	t.Helper()
	if c.AH {
		out, err := esp.NewAHOutbound(c.config())
		if err != nil {
			t.Fatal(err)
		}
		out.SetSequenceForTest(c.before())
		packet := c.plain
		if outer != 0 {
			packet = append(outerHeader(outer, protocol, len(c.plain)), c.plain...)
		}
		b, err := out.Seal(nil, packet)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	out, err := esp.NewOutbound(c.config())
	if err != nil {
		t.Fatal(err)
	}
	out.SetSequenceForTest(c.before())
	payload := append(slices.Clone(c.plain), make([]byte, esp.TrailerRoom)...)[:len(c.plain)]
	b, err := out.Seal(nil, payload, protocol)
	if err != nil {
		t.Fatal(err)
	}
	return append(outerHeader(outer, 50, len(b)), b...)
}

// open says whether we get back what scapy sealed.
func (c *scapyCase) open(t *testing.T, sealed string) error {
	t.Helper()
	b, err := hex.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	if c.AH {
		in, err := esp.NewAHInbound(c.config())
		if err != nil {
			t.Fatal(err)
		}
		in.SetHighestForTest(c.before())
		p, err := in.Open(b)
		if err != nil {
			return fmt.Errorf("opened %s: %w", sealed, err)
		}
		if got = p.Payload; c.Outer == "" {
			got = p.Whole
		}
	} else {
		in, err := esp.NewInbound(c.config())
		if err != nil {
			t.Fatal(err)
		}
		in.SetHighestForTest(c.before())
		header := 20
		if b[0]>>4 == 6 {
			header = 40
		}
		p, err := in.Open(b[header:])
		if err != nil {
			return fmt.Errorf("opened %s: %w", sealed, err)
		}
		got = p.Payload
	}
	if !bytes.Equal(got, c.plain) {
		return fmt.Errorf("opened %x, want %x", got, c.plain)
	}
	return nil
}
