package lab_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// eachRekey has both SAs rekeyed by both ends in turn: every key derivation
// that there is (RFC 7296, Sections 2.17 and 2.18).
func eachRekey() []step {
	return []step{rekeyChild(ours), rekeyChild(theirs), rekeyIKE(ours), rekeyIKE(theirs), rekeyChild(ours)}
}

var bothSides = []side{ours, theirs}

// each makes a case for each end that may initiate.
func each(c interopCase) []interopCase {
	var out []interopCase
	for _, by := range bothSides {
		one := c
		one.initiates = by
		one.name = fmt.Sprintf("%s/%v", c.name, by)
		out = append(out, one)
	}
	return out
}

// classicCases are what any IKEv2 peer does. With long, what is orthogonal is
// combined.
func classicCases(long bool) []interopCase {
	return slices.Concat(suiteCases(long), authCases(long), natCases(long), lifeCases(), reauthCases(), closeCases(), lossCases(), negotiationCases(), sharedKeyCases(), internalCases(), refusalCases(), redirectCases(true), mobikeCases())
}

// suiteCases go through the algorithms; each case is one pair, so that CI sees
// every one of them in both roles.
func suiteCases(long bool) []interopCase {
	ikeSuites := []string{
		"aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha512-ecp256",
		"chacha20poly1305-prfsha256-x25519", "aes128-sha256-ecp256", "aes256-sha384-ecp384", "aes256-sha512-x25519",
	}
	espSuites := []string{
		"aes128gcm16-x25519", "aes256gcm16-ecp384", "chacha20poly1305-ecp256",
		"aes128-sha256-x25519", "aes256-sha384-ecp256", "aes256-sha512-ecp384", "aes256gcm16",
	}
	// What RFC 8247 and RFC 8221 leave to those who need it.
	rare := [][2]string{
		{"aes256gcm8-prfsha256-modp2048", "aes256gcm8-modp2048"},
		{"aes128gcm12-prfsha384-modp3072", "aes128gcm12-modp3072"},
		{"aes128ctr-sha256-modp4096", "aes256ctr-sha256-x25519"},
		{"aes256gcm16-prfsha512-ecp521", "aes192gcm16-ecp521"},
		{"aes128ccm16-prfsha256-ecp256", "aes256ccm16-x25519"},
		{"aes256ccm8-prfsha256-x25519", "aes128ccm12-x25519"},
		{"aes192-sha1-modp2048", "aes192-sha1-ecp256"},
		{"aes128-aesxcbc-prfaesxcbc-x25519", "aes128-aesxcbc-x25519"},
	}
	var out []interopCase
	for _, s := range rare {
		out = append(out, each(interopCase{name: "suite/" + s[0] + "," + s[1], ike: s[0], esp: s[1], steps: eachRekey()})...)
	}
	for i, s := range ikeSuites {
		for j, e := range espSuites {
			if long || i == j {
				out = append(out, each(interopCase{name: "suite/" + s + "," + e, ike: s, esp: e, steps: eachRekey()})...)
			}
		}
	}
	return out
}

// authCases go through the ways to prove an identity, and the kinds of
// identities.
func authCases(long bool) []interopCase {
	var out []interopCase
	kinds := []string{"ed25519+ed25519", "ecdsa256+ecdsa256", "ecdsa384+ed25519", "ed25519+ecdsa384", "ecdsa521+ecdsa521"}
	for _, kind := range kinds {
		for _, below := range []bool{false, true} {
			if long || below == (kind == "ecdsa384+ed25519") {
				out = append(out, each(interopCase{name: fmt.Sprintf("auth/%s,intermediate=%v", kind, below), auth: kind, intermediate: below, steps: []step{rekeyIKE(theirs)}})...)
			}
		}
	}
	for _, rsa := range []struct {
		name, log, options string
		padding            ident.RSAPadding
	}{
		{"PSS", "with RSA_EMSA_PSS", "  rsa_pss = yes", ident.RSAPaddingPSS},
		{"PKCS1", "with RSA_EMSA_PKCS1_SHA2", "  rsa_pss = no", ident.RSAPaddingPKCS1v15},
	} {
		out = append(out, each(interopCase{
			name: "auth/rsa2048+rsa3072," + rsa.name, auth: "rsa2048+rsa3072", options: rsa.options,
			tunnel: func(c *engine.TunnelConfig) { c.Credentials.RSA = rsa.padding },
			steps:  []step{theirLog("authentication of 'ours.example' "+rsa.log, "authentication of 'theirs.example' (myself) "+rsa.log)},
		})...)
	}
	// What was before RFC 7427.
	for _, kind := range []struct{ key, log string }{
		{"rsa2048", "RSA signature"}, {"ecdsa256", "ECDSA-256 signature"}, {"ecdsa384", "ECDSA-384 signature"}, {"ecdsa521", "ECDSA-521 signature"},
	} {
		legacy := []wire.AuthMethod{wire.AuthRSA, wire.AuthECDSAP256, wire.AuthECDSAP384, wire.AuthECDSAP521}
		out = append(out, each(interopCase{
			name: "auth/before RFC 7427," + kind.key, auth: kind.key + "+" + kind.key, options: "  signature_authentication = no",
			tunnel: func(c *engine.TunnelConfig) { c.Credentials.Legacy, c.Peer.Legacy = legacy, legacy },
			steps:  []step{theirLog("authentication of 'ours.example' with "+kind.log, "authentication of 'theirs.example' (myself) with "+kind.log)},
		})...)
	}
	for _, id := range [][2]string{
		{"ours@swanherd.example", "theirs@swanherd.example"},
		{ourPublic, theirPublic},
		{"CN=ours, O=Swanherd", "CN=theirs, O=Swanherd"},
	} {
		out = append(out, each(interopCase{name: "identity/" + id[0], auth: "ecdsa256+ed25519", ourID: id[0], theirID: id[1]})...)
	}
	out = append(out, each(interopCase{name: "identity/address with a pre-shared key", ourID: ourPublic, theirID: theirPublic})...)
	// A certificate of the peer that takes many fragments.
	out = append(out, each(interopCase{
		name: "fragments/theirs of 400 octets", auth: "ed25519+rsa3072", intermediate: true, options: "  fragment_size = 400",
		steps: []step{theirLog("splitting IKE message")},
	})...)
	out = append(out, each(interopCase{
		name: "fragments/ours of 576 octets", auth: "rsa3072+ed25519", intermediate: true,
		tunnel: func(c *engine.TunnelConfig) { c.FragmentSize = 576 },
		steps:  []step{theirLog("received fragment #3")},
	})...)
	out = append(out, each(interopCase{
		name: "fragments/ours", auth: "rsa3072+ed25519", intermediate: true,
		steps: []step{theirLog("received fragment #2")},
	})...)
	return out
}

// natCases put either end or both behind a NAT that changes ports.
func natCases(long bool) []interopCase {
	var out []interopCase
	for _, nat := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		for _, auth := range []string{"psk", "ecdsa256+ecdsa256"} {
			if long || (auth == "psk") == (nat[0] != nat[1]) {
				where := []string{}
				for i, s := range bothSides {
					if nat[i] {
						where = append(where, s.String())
					}
				}
				out = append(out, each(interopCase{
					name: "nat/" + strings.Join(where, " and ") + "," + auth, auth: auth, nat: nat,
					tunnel: func(c *engine.TunnelConfig) { c.ForceEncap = false }, steps: eachRekey(),
				})...)
			}
		}
	}
	return out
}

// lifeCases have SAs replaced: crossing, and by themselves.
func lifeCases() []interopCase {
	return slices.Concat(
		each(interopCase{name: "collision/child", steps: []step{crossing(rekeysChild, rekeysChild), crossing(rekeysChild, rekeysChild), rekeyIKE(ours)}}),
		each(interopCase{name: "collision/ike", steps: []step{crossing(rekeysIKE, rekeysIKE), crossing(rekeysIKE, rekeysIKE), rekeyChild(theirs)}}),
		each(interopCase{name: "collision/child by ours, ike by theirs", steps: []step{crossing(rekeysChild, rekeysIKE), rekeyChild(theirs)}}),
		each(interopCase{name: "collision/ike by ours, child by theirs", steps: []step{crossing(rekeysIKE, rekeysChild), rekeyChild(ours)}}),
		each(interopCase{name: "lifetime/ours", tunnel: func(c *engine.TunnelConfig) {
			c.Timing.RekeyIKE, c.Timing.RekeyChild, c.Timing.OverTime = 1500*time.Millisecond, 700*time.Millisecond, 20*time.Second
		}, steps: []step{ikeRekeyed(1), childRekeyed(2), ikeRekeyed(1)}}),
		// One at a time: charon forgets its wish to rekey a Child SA while the IKE
		// SA is being rekeyed.
		each(interopCase{name: "lifetime/theirs, child", child: "        rekey_time = 1\n        life_time = 20\n        rand_time = 0", steps: []step{childRekeyed(2)}}),
		each(interopCase{name: "lifetime/theirs, ike", conn: "    rekey_time = 1\n    over_time = 20\n    rand_time = 0", steps: []step{ikeRekeyed(2)}}),
		each(interopCase{name: "lifetime/packets, ours", tunnel: func(c *engine.TunnelConfig) { c.Children[0].RekeyPackets = 300 }, steps: []step{childRekeyed(2)}}),
	)
}

// closeCases delete SAs.
func closeCases() []interopCase {
	two := []string{"net", "net2"}
	return slices.Concat(
		each(interopCase{name: "delete/ike by ours", steps: []step{closeIKE(ours)}, lossy: true}),
		each(interopCase{name: "delete/ike by theirs", steps: []step{closeIKE(theirs)}, lossy: true}),
		each(interopCase{name: "delete/child by ours", children: two, steps: []step{closeChild(ours), rekeyIKE(theirs), rekeyChild(ours)}}),
		each(interopCase{name: "delete/child by theirs", children: two, steps: []step{closeChild(theirs), rekeyIKE(ours), rekeyChild(theirs)}}),
	)
}

// reauthCases have the ends prove themselves again, in a new IKE SA (RFC 7296,
// Section 2.8.3). charon sends on a Child SA of IKE_AUTH before its answer is
// there, so a packet that overtakes the answer is lost also where the new one is
// made first.
func reauthCases() []interopCase {
	again := "    rekey_time = 0\n    reauth_time = 2\n    over_time = 20\n    rand_time = 0"
	return []interopCase{
		{name: "reauthentication/theirs, break before make", initiates: theirs, auth: "ed25519+ecdsa256", conn: again, options: "  make_before_break = no", steps: []step{ikeUp(2)}, lossy: true},
		{name: "reauthentication/theirs, make before break", initiates: theirs, auth: "ed25519+ecdsa256", conn: again, options: "  make_before_break = yes", steps: []step{ikeUp(2)}, lossy: true},
		{name: "reauthentication/ours", auth: "ed25519+ecdsa256", steps: []step{reauthenticate(), rekeyChild(theirs), reauthenticate(), rekeyIKE(theirs)}, lossy: true},
		{name: "reauthentication/ours, as responder", initiates: theirs, auth: "ecdsa256+ed25519", steps: []step{reauthenticate(), rekeyChild(ours)}, lossy: true},
	}
}

// quickDPD lets our end notice a dead peer in about two seconds.
func quickDPD(c *engine.TunnelConfig) {
	c.Timing.DPD, c.Timing.RetransmitBase, c.Timing.RetransmitTries = 500*time.Millisecond, 200*time.Millisecond, 3
}

// lossCases take the peer, our engine or the link away.
func lossCases() []interopCase {
	return slices.Concat(
		each(interopCase{name: "dpd/peer dies", tunnel: quickDPD, steps: []step{killPeer()}, lossy: true}),
		each(interopCase{name: "dpd/link is cut", tunnel: quickDPD, conn: "    dpd_delay = 1", steps: []step{cutLink()}, lossy: true}),
		each(interopCase{name: "dpd/nobody dies", tunnel: quickDPD, conn: "    dpd_delay = 1", steps: []step{theirLog("parsed INFORMATIONAL request"), rekeyIKE(theirs)}}),
		[]interopCase{{name: "restart/ours", steps: []step{restartOurs()}, lossy: true}, {name: "restart/theirs", initiates: theirs, steps: []step{restartPeer()}, lossy: true}},
	)
}

// wide replaces the selectors of our tunnel.
func wide(local, remote string) func(*engine.TunnelConfig) {
	return func(c *engine.TunnelConfig) {
		c.Children[0].LocalTS = []ts.Selector{ts.FromPrefix(netip.MustParsePrefix(local))}
		c.Children[0].RemoteTS = []ts.Selector{ts.FromPrefix(netip.MustParsePrefix(remote))}
	}
}

// negotiationCases have the ends want different things that fit together.
func negotiationCases() []interopCase {
	return slices.Concat(
		each(interopCase{
			name: "negotiation/another key exchange method", ike: "aes256gcm16-prfsha384-x25519-ecp256", theirIKE: "aes256gcm16-prfsha384-ecp384-ecp256",
			wantIKE: "aes256gcm16-prfsha384-ecp256", steps: []step{rekeyIKE(ours), rekeyIKE(theirs)},
		}),
		each(interopCase{
			name: "negotiation/another key exchange method for the Child SA", esp: "aes128gcm16-x25519-ecp256", theirESP: "aes128gcm16-ecp384-ecp256",
			wantESP: "aes128gcm16-ecp256", steps: []step{rekeyChild(ours), rekeyChild(theirs)},
		}),
		each(interopCase{
			name: "negotiation/best of several", ike: "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha512-prfsha256-x25519-ecp384", theirIKE: "chacha20poly1305-prfsha256-ecp256-ecp384",
			wantIKE: "chacha20poly1305-prfsha256-ecp384", esp: "aes256gcm16-chacha20poly1305", theirESP: "chacha20poly1305", wantESP: "chacha20poly1305",
		}),
		each(interopCase{name: "negotiation/ours narrowed", tunnel: wide("10.1.0.0/16", "10.0.0.0/8"), steps: []step{selectors("10.1.0.0/24", "10.2.0.0/24"), rekeyChild(ours), rekeyChild(theirs), selectors("10.1.0.0/24", "10.2.0.0/24")}}),
		[]interopCase{{
			name: "negotiation/theirs narrowed", initiates: theirs, child: "        local_ts = 10.0.0.0/8\n        remote_ts = 10.1.0.0/16",
			steps: []step{selectors("10.1.0.0/24", "10.2.0.0/24"), rekeyChild(ours), rekeyChild(theirs), selectors("10.1.0.0/24", "10.2.0.0/24")},
		}},
		each(interopCase{name: "childless/preferred by ours", tunnel: func(c *engine.TunnelConfig) { c.Childless = ike.ChildlessPrefer }, steps: eachRekey()}),
		[]interopCase{
			{name: "childless/forced by theirs", initiates: theirs, conn: "    childless = force", steps: eachRekey()},
			{name: "childless/forced by theirs, not done by ours", conn: "    childless = force", fails: "INVALID_SYNTAX"},
		},
		each(interopCase{name: "childless/forced by both", conn: "    childless = force", tunnel: func(c *engine.TunnelConfig) { c.Childless = ike.ChildlessForce }, steps: eachRekey()}),
		each(interopCase{name: "negotiation/three children", children: []string{"net", "net2", "net3"}, steps: []step{rekeyIKE(ours), rekeyIKE(theirs), rekeyChild(ours), rekeyChild(theirs)}}),
		[]interopCase{
			{name: "cookie/demanded by theirs", options: "  cookie_threshold = 2\n  cookie_threshold_ip = 2", before: []step{halfOpen(4)}, steps: []step{theirLog("IKE_SA_INIT response 0 [ N(COOKIE) ]")}},
			{name: "cookie/demanded by ours", initiates: theirs, engine: func(c *engine.Config) { c.Limits.CookieThreshold = -1 }, steps: []step{theirLog("parsed IKE_SA_INIT response 0 [ N(COOKIE) ]")}},
			{name: "crossing initiations", tunnel: func(c *engine.TunnelConfig) { c.Role = ike.RoleEither }, conn: "    unique = replace", before: []step{initiateTogether()}, steps: eachRekey()},
			{name: "child begun by traffic", tunnel: func(c *engine.TunnelConfig) { c.Children[0].Start = ike.StartOnTraffic }, before: []step{sendTraffic()}},
		},
	)
}

// sharedKeyCases mix a post-quantum preshared key into the keys (RFC 8784).
func sharedKeyCases() []interopCase {
	key := ident.PPK{ID: []byte("ppk.example"), Key: ident.PSK("a post-quantum key of the test, 256 bits")}
	has := func(c *engine.TunnelConfig) { c.PPKs = []ident.PPK{key} }
	needs := func(c *engine.TunnelConfig) { has(c); c.PPKRequired = true }
	const (
		theirKey      = "secrets {\n  ppk-1 {\n    id = ppk.example\n    secret = \"a post-quantum key of the test, 256 bits\"\n  }\n}"
		theirOtherKey = "secrets {\n  ppk-1 {\n    id = ppk.example\n    secret = \"another post-quantum key\"\n  }\n}"
	)
	return slices.Concat(
		each(interopCase{name: "ppk/required by both", tunnel: needs, conn: "    ppk_id = ppk.example\n    ppk_required = yes", top: theirKey, steps: append(eachRekey(), theirLog("using PPK"))}),
		each(interopCase{name: "ppk/with certificates", auth: "ed25519+ecdsa256", tunnel: has, conn: "    ppk_id = ppk.example", top: theirKey, steps: append(eachRekey(), theirLog("using PPK"))}),
		each(interopCase{name: "ppk/only at ours", tunnel: has, steps: eachRekey()}),
		each(interopCase{name: "ppk/only at theirs", conn: "    ppk_id = ppk.example", top: theirKey, steps: eachRekey()}),
		[]interopCase{
			{name: "refused/ppk that theirs lack", tunnel: needs, fails: "the peer uses no post-quantum preshared key"},
			{name: "refused/ppk that ours lack", initiates: theirs, conn: "    ppk_id = ppk.example\n    ppk_required = yes", top: theirKey, fails: "PPK required but peer does not support PPK"},
			{name: "refused/another ppk", tunnel: needs, conn: "    ppk_id = ppk.example\n    ppk_required = yes", top: theirOtherKey, fails: "AUTHENTICATION_FAILED"},
		},
	)
}

// internalCases have the peer give our end its address (RFC 7296, Section 2.19):
// that of the host behind, which is all that may pass then. The other way about
// needs the kernel's ESP.
func internalCases() []interopCase {
	return []interopCase{
		{
			name: "internal address/given by theirs", conn: "    pools = addresses", child: "        remote_ts = dynamic",
			top: "pools {\n  addresses {\n    addrs = 10.1.0.2/32\n    dns = 10.2.0.53\n  }\n}",
			tunnel: func(c *engine.TunnelConfig) {
				c.InternalRequest = &ike.InternalRequest{Addresses: []netip.Addr{netip.IPv4Unspecified()}, DNS: true, Required: true}
			},
			steps: append(eachRekey(), internal("10.1.0.2", "10.2.0.53"), selectors("10.1.0.2/32", "10.2.0.0/24")),
		},
	}
}

// refusalCases must not come up.
func refusalCases() []interopCase {
	other := func(c *engine.TunnelConfig) {
		c.Credentials.PSK = append(c.Credentials.PSK[:0:0], "another pre-shared key"...)
		c.Peer.PSK = c.Credentials.PSK
	}
	return []interopCase{
		{name: "refused/proposals/ours", ike: "aes256gcm16-prfsha384-x25519", theirIKE: "aes128gcm16-prfsha256-x25519", fails: "NO_PROPOSAL_CHOSEN"},
		{name: "refused/proposals/theirs", initiates: theirs, ike: "aes256gcm16-prfsha384-x25519", theirIKE: "aes128gcm16-prfsha256-x25519", fails: "NO_PROPOSAL_CHOSEN"},
		{name: "refused/pre-shared key/ours", tunnel: other, fails: "AUTHENTICATION_FAILED"},
		{name: "refused/pre-shared key/theirs", initiates: theirs, tunnel: other, fails: "AUTHENTICATION_FAILED"},
		{name: "refused/child's proposals/ours", esp: "aes256gcm16", theirESP: "aes128-sha256", fails: "NO_PROPOSAL_CHOSEN"},
		{name: "refused/child's proposals/theirs", initiates: theirs, esp: "aes256gcm16", theirESP: "aes128-sha256", fails: "NO_PROPOSAL_CHOSEN"},
		{name: "refused/selectors/ours", tunnel: wide("10.9.0.0/24", "10.2.0.0/24"), fails: "TS_UNACCEPTABLE"},
		{name: "refused/selectors/theirs", initiates: theirs, tunnel: wide("10.9.0.0/24", "10.2.0.0/24"), fails: "TS_UNACCEPTABLE"},
		{name: "refused/identity/ours", auth: "ed25519+ed25519", conn: "    remote {\n      id = somebody.example\n    }", fails: "AUTHENTICATION_FAILED"},
		{name: "refused/identity/theirs", initiates: theirs, auth: "ed25519+ed25519", tunnel: func(c *engine.TunnelConfig) { c.Peer.ID = c.Credentials.ID }, fails: "AUTHENTICATION_FAILED"},
	}
}
