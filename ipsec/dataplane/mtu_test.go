package dataplane_test

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

var (
	gcm   = suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, ESN: true}
	cbc   = suite.ESPSuite{Encryption: wire.EncryptionAESCBC, KeyBits: 256, Integrity: wire.IntegrityHMACSHA256}
	ccm8  = suite.ESPSuite{Encryption: wire.EncryptionAESCCM8, KeyBits: 128}
	ah256 = suite.ESPSuite{AH: true, Integrity: wire.IntegrityHMACSHA256}
	ah512 = suite.ESPSuite{AH: true, Integrity: wire.IntegrityHMACSHA512}
)

// TestInnerMTU has figures that were added up by hand.
func TestInnerMTU(t *testing.T) {
	for _, tt := range []struct {
		name   string
		suite  suite.ESPSuite
		remote string
		mode   dataplane.Mode
		tcp    bool
		path   int
		want   int
	}{
		// 1500 - 20 IP - 8 UDP - 8 ESP - 8 IV - 16 ICV = 1440, 2 of them trailer
		{"GCM, UDP, IPv4", gcm, "192.0.2.1:4500", dataplane.Tunnel, false, 1500, 1438},
		{"GCM, UDP, IPv6", gcm, "[2001:db8::1]:4500", dataplane.Tunnel, false, 1500, 1418},
		{"GCM, IPv4", gcm, "192.0.2.1:0", dataplane.Tunnel, false, 1500, 1446},
		{"GCM, transport", gcm, "192.0.2.1:0", dataplane.Transport, false, 1500, 1466},
		{"GCM, UDP, transport", gcm, "192.0.2.1:4500", dataplane.Transport, false, 1500, 1458},
		// 1500 - 20 - 8 - 8 - 16 - 16 = 1432: 89 blocks, 2 octets trailer
		{"CBC, UDP, IPv4", cbc, "192.0.2.1:4500", dataplane.Tunnel, false, 1500, 1422},
		{"CBC, UDP, IPv6", cbc, "[2001:db8::1]:4500", dataplane.Tunnel, false, 1500, 1406},
		{"CCM with 8 octets", ccm8, "192.0.2.1:4500", dataplane.Tunnel, false, 1500, 1446},
		{"PPPoE", gcm, "192.0.2.1:4500", dataplane.Tunnel, false, 1492, 1430},
		{"least IPv6", gcm, "[2001:db8::1]:4500", dataplane.Tunnel, false, 1280, 1198},
		{"in a connection", gcm, "192.0.2.1:4500", dataplane.Tunnel, true, 1500, 65498},
		// 20 IP + 12 AH + 16 ICV
		{"AH, IPv4", ah256, "192.0.2.1:0", dataplane.Tunnel, false, 1500, 1452},
		// 40 IP + 12 AH + 16 ICV, aligned to 8
		{"AH, IPv6", ah256, "[2001:db8::1]:0", dataplane.Tunnel, false, 1500, 1428},
		{"AH, transport", ah256, "192.0.2.1:0", dataplane.Transport, false, 1500, 1472},
		{"AH with SHA-512, IPv6", ah512, "[2001:db8::1]:0", dataplane.Transport, false, 1500, 1452},
		{"no room", cbc, "192.0.2.1:4500", dataplane.Tunnel, false, 70, 0},
		{"no room, transport", cbc, "192.0.2.1:4500", dataplane.Transport, false, 70, 0},
	} {
		sa := dataplane.SA{Suite: tt.suite, Remote: netip.MustParseAddrPort(tt.remote), Mode: tt.mode, TCP: tt.tcp}
		if got := sa.InnerMTU(tt.path); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestInnerMTUIsExact: the packet that just fits does, one octet more does not.
func TestInnerMTUIsExact(t *testing.T) {
	for _, s := range []suite.ESPSuite{
		gcm, cbc, ccm8,
		{Encryption: wire.EncryptionChaCha20Poly1305},
		{Encryption: wire.EncryptionAESGCM8, KeyBits: 256},
		{Encryption: wire.EncryptionAESCTR, KeyBits: 128, Integrity: wire.IntegrityHMACSHA256},
		{Encryption: wire.EncryptionNull, Integrity: wire.IntegrityHMACSHA512},
		{Encryption: wire.EncryptionNullAESGMAC, KeyBits: 128},
	} {
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		sa := dataplane.SA{Suite: s, Remote: netip.MustParseAddrPort("192.0.2.1:4500")}
		for path := 576; path < 1600; path++ {
			n := sa.InnerMTU(path)
			fits := func(n int) bool { return 20+8+n+esp.Overhead(s, n) <= path }
			if !fits(n) || fits(n+1) {
				t.Fatalf("%s over %d octets: %d is not the longest", s, path, n)
			}
		}
	}
}
