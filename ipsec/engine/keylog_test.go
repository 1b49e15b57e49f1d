package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
)

// capture is a file in the format of libpcap with IP packets (LINKTYPE_RAW).
type capture struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func newCapture() *capture {
	c := &capture{}
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	head = binary.LittleEndian.AppendUint16(head, 2)
	head = binary.LittleEndian.AppendUint16(head, 4)
	head = append(head, make([]byte, 8)...)
	head = binary.LittleEndian.AppendUint32(head, 1<<16)
	c.b.Write(binary.LittleEndian.AppendUint32(head, 101))
	return c
}

// datagram adds a UDP datagram.
func (c *capture) datagram(from, to netip.AddrPort, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	packet := ipv4(from.Addr(), to.Addr(), 17, 8+len(payload))
	packet = binary.BigEndian.AppendUint16(packet, from.Port())
	packet = binary.BigEndian.AppendUint16(packet, to.Port())
	packet = binary.BigEndian.AppendUint16(packet, uint16(8+len(payload)))
	packet = append(append(packet, 0, 0), payload...)
	head := binary.LittleEndian.AppendUint64(nil, 0)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(packet)))
	c.b.Write(binary.LittleEndian.AppendUint32(head, uint32(len(packet))))
	c.b.Write(packet)
}

// ipv4 is the header of a packet, with n octets to follow.
func ipv4(from, to netip.Addr, protocol byte, n int) []byte {
	b := []byte{0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+n))
	b = append(b, 0, 0, 0, 0, 64, protocol, 0, 0)
	return append(append(b, from.AsSlice()...), to.AsSlice()...)
}

// watchedPlane keeps the SAs that are installed.
type watchedPlane struct {
	*memory.Plane
	sas []dataplane.SA
}

func (p *watchedPlane) Apply(ops []dataplane.Op) []error {
	for _, op := range ops {
		if install, ok := op.(dataplane.InstallSA); ok {
			sa := install.SA
			sa.Key = bytes.Clone(sa.Key)
			p.sas = append(p.sas, sa)
		}
	}
	return p.Plane.Apply(ops)
}

// record runs a handshake and a rekeying of both SAs with these suites, sends a
// ping as ESP on each SA, and returns all of it with the key log of both ends.
func record(t *testing.T, ikeSuite, espSuite string) (packets, ikeKeys, espKeys []byte) {
	log := map[string]*bytes.Buffer{}
	out := newCapture()
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		sw.SetFilter(func(d *memory.Datagram) []time.Duration {
			if d.IKE != nil {
				out.datagram(d.From, d.To, slices.Concat([]byte{0, 0, 0, 0}, d.IKE))
			}
			return memory.Perfect(d)
		})
		var plane *watchedPlane
		logKeys := func(c *Config) {
			plane = &watchedPlane{Plane: c.Plane.(*memory.Plane)}
			c.Plane = plane
			i, e := &bytes.Buffer{}, &bytes.Buffer{}
			c.KeyLog = KeyLog{IKE: i, ESP: e}
			log["ike"], log["esp"] = i, e
		}
		a := startNode(t, sw, "a.example", addrA, logKeys)
		b := startNode(t, sw, "b.example", addrB)
		esps, err := suite.ParseESP(espSuite)
		if err != nil {
			t.Fatal(err)
		}
		configure := func(c TunnelConfig) []TunnelConfig {
			c.Proposals, c.Children[0].Proposals = ikeProposals(t, ikeSuite), []suite.ESPProposal{esps}
			return []TunnelConfig{c}
		}
		b.apply(configure(b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))), Added)
		a.apply(configure(a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))), Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		first := a.status("to-b").IKE[0].LocalSPI
		if err := a.RekeyIKE("to-b"); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, "the IKE SA is rekeyed", func() bool {
			return !slices.ContainsFunc(a.status("to-b").IKE, func(s ike.IKEStatus) bool { return s.LocalSPI == first })
		})
		if err := a.RekeyChild("to-b", ""); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, "the Child SA is rekeyed", func() bool { return len(plane.sas) >= 4 })
		for _, sa := range plane.sas {
			from, to := sa.Local, sa.Remote
			if sa.Direction == dataplane.Inbound {
				from, to = to, from
			}
			sender, err := esp.NewOutbound(esp.Config{SPI: sa.SPI, Suite: sa.Suite, Key: sa.Key})
			if err != nil {
				t.Fatal(err)
			}
			inner := append(ipv4(netip.MustParseAddr("10.7.7.7"), netip.MustParseAddr("10.8.8.8"), 1, 8), 8, 0, 0xf7, 0xff, 0, 0, 0, 0)
			packet, err := sender.Seal(nil, append(inner, make([]byte, esp.TrailerRoom)...)[:len(inner)], esp.NextHeaderIPv4)
			if err != nil {
				t.Fatal(err)
			}
			out.datagram(from, to, packet)
		}
		a.stop()
	})
	return out.b.Bytes(), log["ike"].Bytes(), log["esp"].Bytes()
}

// TestKeyLogInWireshark holds that Wireshark reads IKE and ESP with what the key
// log says.
func TestKeyLogInWireshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("SKIPPED: needs tshark (Debian package tshark)")
	}
	for _, c := range []struct{ ike, esp string }{
		{"aes256gcm16-prfsha384-x25519", "aes256gcm16"},
		{"aes128gcm8-prfsha256-x25519", "aes128gcm8"},
		{"aes256-sha256-x25519", "aes256-sha256"},
		{"aes128-sha512-x25519", "aes128-sha512"},
		{"aes256ctr-sha384-x25519", "aes256ctr-sha384"},
	} {
		t.Run(c.ike, func(t *testing.T) {
			packets, ikeKeys, espKeys := record(t, c.ike, c.esp)
			dir := t.TempDir()
			for name, b := range map[string][]byte{"packets.pcap": packets, "ikev2_decryption_table": ikeKeys, "esp_sa": espKeys} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), tshark, "-V", "-r", filepath.Join(dir, "packets.pcap"),
				"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE")
			cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+dir)
			raw, err := cmd.CombinedOutput()
			text := string(raw)
			if err != nil {
				t.Fatalf("tshark: %v\n%s", err, text)
			}
			for want, least := range map[string]int{
				"Identification Data:a.example": 1, "Identification Data:b.example": 1,
				"Notify Message Type: INITIAL_CONTACT": 1, "Notify Message Type: REKEY_SA": 1,
				"Starting Addr: 10.": 8, "Payload: Delete (42)": 2,
				"Src: 10.7.7.7, Dst: 10.8.8.8": 4, "Echo (ping) request": 4,
			} {
				if n := strings.Count(text, want); n < least {
					t.Errorf("%q is there %d times, want %d", want, n, least)
				}
			}
			for _, bad := range []string{"Malformed", "incorrect", "not decrypted"} {
				if strings.Contains(text, bad) {
					t.Errorf("%q is there", bad)
				}
			}
			if t.Failed() {
				t.Logf("%s%s%s", ikeKeys, espKeys, text)
			}
		})
	}
}

// TestKeyLogLines holds the form of the lines, and that what Wireshark cannot
// read is a comment.
func TestKeyLogLines(t *testing.T) {
	_, ikeKeys, espKeys := record(t, "aes128gcm16-prfsha256-x25519", "chacha20poly1305")
	if n := bytes.Count(ikeKeys, []byte("\n")); n != 2 { // a second IKE SA by rekeying
		t.Errorf("%d lines:\n%s", n, ikeKeys)
	}
	for line := range strings.Lines(string(ikeKeys)) {
		var spii, spir uint64
		var ei, er []byte
		if n, err := fmt.Sscanf(line, `%016x,%016x,%40x,%40x,"AES-GCM-128 with 16 octet ICV [RFC5282]",,,"NONE [RFC4306]"`, &spii, &spir, &ei, &er); n != 4 || err != nil {
			t.Errorf("%d %v: %s", n, err, line)
		}
	}
	for line := range strings.Lines(string(espKeys)) {
		if !strings.HasPrefix(line, `# not known to Wireshark: "IPv4","*","*","0x`) {
			t.Error(line)
		}
	}
}
