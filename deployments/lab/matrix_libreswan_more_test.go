package lab_test

import (
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// libreswanPPKCases mix post-quantum preshared keys into the keys (RFC 8784).
// libreswan 5.2 does it in IKE_INTERMEDIATE as well, but under the numbers of a
// draft of RFC 9867.
func libreswanPPKCases(base interopCase) []interopCase {
	key := ident.PPK{ID: []byte("ppk.example"), Key: ident.PSK("a post-quantum key of the test, 256 bits")}
	base.name = "ppk"
	base.top = `@theirs.example @ours.example : PPKS "ppk.example" "a post-quantum key of the test, 256 bits"`
	base.conn = "  ppk=insist"
	base.tunnel = func(c *engine.TunnelConfig) { c.PPKs, c.PPKRequired = []ident.PPK{key}, true }
	base.steps = append([]step{{"the IKE SA depends on the key", func(x *run) {
		for _, sa := range x.gateway.tunnel().IKE {
			if sa.PPK != "ppk.example" {
				x.t.Errorf("the IKE SA depends on the key %q, want ppk.example", sa.PPK)
			}
		}
	}}, theirLog("PPK AUTH calculated")}, eachRekey()...)
	return each(base)
}

// libreswanLifeCases begin and end SAs.
func libreswanLifeCases(base interopCase) []interopCase {
	with := func(name string, by side, edit func(*interopCase)) interopCase {
		c := base
		c.name, c.initiates = name+"/"+by.String(), by
		edit(&c)
		return c
	}
	return []interopCase{
		with("childless", ours, func(c *interopCase) {
			c.tunnel = func(c *engine.TunnelConfig) { c.Childless = ike.ChildlessForce }
			c.steps = eachRekey()
		}),
		// libreswan begins so only in its own tests.
		with("childless", theirs, func(c *interopCase) {
			c.before = []step{theirCommand("--impair", "omit_v2_ike_auth_child")}
			c.tunnel = func(c *engine.TunnelConfig) { c.Childless = ike.ChildlessForce }
			c.steps = eachRekey()
		}),
		// Both ends announce IKE_INTERMEDIATE and have nothing to agree on in it.
		with("intermediate", theirs, func(c *interopCase) {
			c.conn = "  intermediate=yes"
			c.steps = append([]step{theirLog("IKE_INTERMEDIATE")}, eachRekey()...)
		}),
		with("reauthentication by ours", ours, func(c *interopCase) {
			c.auth = "ecdsa256+ecdsa256"
			c.steps = []step{reauthenticate(), rekeyChild(theirs), reauthenticate(), rekeyIKE(theirs)}
		}),
		with("reauthentication by ours", theirs, func(c *interopCase) {
			c.auth = "ecdsa256+ecdsa256"
			c.steps = []step{reauthenticate(), rekeyChild(ours)}
		}),
		with("reauthentication by theirs", theirs, func(c *interopCase) {
			c.auth = "ecdsa256+ecdsa256"
			c.conn = "  reauth=yes\n  ikelifetime=15s\n  rekeymargin=8s\n  rekeyfuzz=0%"
			c.steps = []step{ikeUp(2)}
		}),
		with("delete of the Child SA by theirs", ours, func(c *interopCase) {
			c.steps = []step{closeChild(theirs), rekeyChild(ours)}
		}),
	}
}
