package ike

import (
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

func baseConfig(local, remote string) Config {
	return Config{
		Local: netip.AddrPortFrom(netip.MustParseAddr(local), 500), Remote: netip.AddrPortFrom(netip.MustParseAddr(remote), 500),
		Timing: Timing{RekeyIKE: -1, RekeyChild: -1, DPD: -1, TakeOver: -1, PathMTU: -1},
		// Only the stories about it have MOBIKE, so that the others stay on port
		// 500 and short.
		Mobility: Mobility{Disable: true},
	}
}

func mustID(s string) ident.ID {
	id, err := ident.ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func mustTS(list ...string) []ts.Selector {
	var out []ts.Selector
	for _, s := range list {
		sel, err := ts.Parse(s)
		if err != nil {
			panic(err)
		}
		out = append(out, sel)
	}
	return out
}

func mustESP(list ...string) []suite.ESPProposal { return mustParse(suite.ParseESP, list) }

func mustIKE(list ...string) []suite.IKEProposal { return mustParse(suite.ParseIKE, list) }

func mustParse[P any](parse func(string) (P, error), list []string) []P {
	var out []P
	for _, s := range list {
		p, err := parse(s)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// pair returns a world with two PSK nodes and one Child SA; change may alter
// either configuration.
func pair(seed uint64, change func(a, b *Config)) *world {
	w := newWorld(seed)
	psk := ident.PSK("correct horse battery staple")
	a, b := baseConfig("192.0.2.1", "198.51.100.1"), baseConfig("198.51.100.1", "192.0.2.1")
	a.Role, b.Role = RoleInitiator, RoleResponder
	a.Credentials, b.Credentials = ident.Local{ID: mustID("a.example"), PSK: psk}, ident.Local{ID: mustID("b.example"), PSK: psk}
	a.Peer, b.Peer = ident.Remote{ID: mustID("b.example"), PSK: psk}, ident.Remote{ID: mustID("a.example"), PSK: psk}
	esp := mustESP("aes128gcm16-x25519-esn")
	a.Children = []ChildConfig{{Name: "net", Proposals: esp, LocalTS: mustTS("10.1.0.0/16"), RemoteTS: mustTS("10.2.0.0/16")}}
	b.Children = []ChildConfig{{Name: "net", Proposals: esp, LocalTS: mustTS("10.2.0.0/16"), RemoteTS: mustTS("10.1.0.0/16")}}
	ike := mustIKE("aes128gcm16-prfsha256-x25519-ecp256")
	a.Proposals, b.Proposals = ike, ike
	if change != nil {
		change(&a, &b)
	}
	w.a = w.newNode("a", a)
	w.b = w.newNode("b", b)
	return w
}
