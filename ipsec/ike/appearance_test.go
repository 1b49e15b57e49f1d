package ike

import (
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestTFCPaddingRefused: a peer that takes no TFC padding says so for each Child SA,
// as initiator or as responder, in the initial exchanges or when it is rekeyed, and
// gets none on that one. Dummy packets every receiver must discard (RFC 7296,
// Section 1.3.1; RFC 4303, Sections 2.6 and 2.7).
func TestTFCPaddingRefused(t *testing.T) {
	outer := dataplane.Outer{FixDSCP: true, DSCP: 10, DF: dataplane.DFSet}
	tfc := dataplane.TFC{PadTo: 1000, Fill: time.Second}
	refused := tfc
	refused.PadTo = 0
	refuse := more(1, rawNotify(wire.NotifyESPTFCPaddingNotSupported, 0, nil, nil))
	for _, c := range []struct {
		name      string
		initiator bool // refuses
		misdeed   misdeed
		begin     func(*evilPeer)
		want      dataplane.TFC
	}{
		{"taken", false, misdeed{}, nil, tfc},
		{"in the answer", false, inAuthReply.with(refuse), nil, refused},
		{"in the request", true, inAuth.with(refuse), nil, refused},
		{"when the peer rekeys", false, inCreate.with(refuse), evilRekeysChild, refused},
		{"when this end rekeys", false, inCreated.with(refuse), goodRekeysChild, refused},
		{"no more when rekeyed", false, inAuthReply.with(refuse), goodRekeysChild, tfc},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEvilPeer(t, c.initiator, func(a, b *Config) {
				for _, cfg := range []*Config{a, b} {
					cfg.Children[0].Outer, cfg.Children[0].TFC = outer, tfc
				}
			})
			e.misdeed = c.misdeed
			e.b.step(Connect{})
			e.a.step(Connect{})
			e.settle()
			if c.begin != nil {
				c.begin(e)
				e.settle()
			}
			if c.misdeed.payloads != nil && !e.done {
				t.Fatal("nothing was refused")
			}
			e.check(t)
			if len(e.good.out) != 1 {
				t.Fatalf("%d outbound SAs", len(e.good.out))
			}
			for _, sa := range e.good.out {
				if sa.TFC != c.want || sa.Outer != outer {
					t.Errorf("outbound: %+v %+v, want %+v %+v", sa.TFC, sa.Outer, c.want, outer)
				}
				if err := sa.TFC.ValidateFor(&sa); err != nil {
					t.Error(err)
				}
			}
			for _, sa := range e.good.in {
				if sa.TFC != (dataplane.TFC{}) || sa.Outer != (dataplane.Outer{}) {
					t.Errorf("inbound: %+v %+v", sa.TFC, sa.Outer)
				}
			}
		})
	}
}

// TestAppearanceIsValidated: the configuration says what a data plane would refuse.
func TestAppearanceIsValidated(t *testing.T) {
	for name, change := range map[string]func(c *ChildConfig){
		"DSCP":           func(c *ChildConfig) { c.Outer = dataplane.Outer{FixDSCP: true, DSCP: 64} },
		"padding":        func(c *ChildConfig) { c.TFC.PadTo = 1 << 17 },
		"transport mode": func(c *ChildConfig) { c.Mode, c.TFC.PadTo = dataplane.Transport, 1000 },
		"no outer header in transport mode": func(c *ChildConfig) {
			c.Mode, c.Outer.DF = dataplane.Transport, dataplane.DFSet
		},
	} {
		w := pair(1, nil)
		cfg := w.a.cfg
		cfg.Children = []ChildConfig{cfg.Children[0]}
		cfg = cfg.withDefaults()
		if err := cfg.validate(); err != nil {
			t.Fatal(err)
		}
		if change(&cfg.Children[0]); cfg.validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
