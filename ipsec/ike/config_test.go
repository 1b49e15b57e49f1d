package ike

import (
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
)

// TestConfigIsChecked holds that what could not be negotiated is refused where
// it is configured, by New and by Reconfigure alike.
func TestConfigIsChecked(t *testing.T) {
	tests := map[string]struct {
		edit func(*Config)
		want string
	}{
		"no identity":          {func(c *Config) { c.Credentials.ID = ident.ID{} }, "own credentials: "},
		"no own secret":        {func(c *Config) { c.Credentials.PSK = nil }, "own credentials: "},
		"no peer's secret":     {func(c *Config) { c.Peer.PSK = nil }, "peer's credentials: "},
		"secret or roots":      {func(c *Config) { c.Peer.Roots = ident.NewRoots() }, "peer's credentials: "},
		"no key exchange":      {func(c *Config) { c.Proposals = withoutExchange() }, "IKE proposal 1"},
		"empty IKE proposal":   {func(c *Config) { c.Proposals = append(suite.DefaultIKE(), suite.IKEProposal{}) }, "IKE proposal "},
		"empty ESP proposal":   {func(c *Config) { c.Children[0].Proposals = []suite.ESPProposal{{}} }, "child net: ESP proposal 1"},
		"child without a name": {func(c *Config) { c.Children[0].Name = "" }, "child name"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := pair(1, nil).a
			bad := n.cfg
			bad.Children = append([]ChildConfig(nil), bad.Children...)
			tt.edit(&bad)
			_, err := New(bad)
			if err == nil || !strings.HasPrefix(err.Error(), "tunnel t: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New: error %v, want one about %q of tunnel t", err, tt.want)
			}
			n.step(Reconfigure{Config: bad})
			if e := n.t.Status().LastError; e == nil || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("Reconfigure: last error %v, want one about %q", e, tt.want)
			}
		})
	}
}

func withoutExchange() []suite.IKEProposal {
	p := suite.DefaultIKE()[0]
	p.KeyExchange = nil
	return []suite.IKEProposal{p}
}
