package engine

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
)

// headers are the octets before an IKE message on the NAT traversal port, over IPv4.
const headers = 20 + 8 + 4

// TestPathMTU: long datagrams of one end are lost, without a word. The data plane of that
// end is told what arrives, and what a rekey installs is told too; that of the other end
// is not.
func TestPathMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		sw.SetFilter(func(d *memory.Datagram) []time.Duration {
			if d.From == addrA && len(d.IKE) > 1400-headers {
				return nil
			}
			return []time.Duration{0}
		})
		a, b := pair(t, sw)
		finds(t, a, b)
	})
}

// narrowPlane has an interface with less room than its host claims.
type narrowPlane struct{ *memory.Plane }

type narrowSender struct{ dataplane.IKESender }

func (p narrowPlane) Listen(deliver func(dataplane.IKEDatagram)) (dataplane.IKESender, error) {
	s, err := p.Plane.Listen(deliver)
	return narrowSender{s}, err
}

func (s narrowSender) SendProbe(local, remote netip.AddrPort, b []byte) error {
	if local == addrA && len(b) > 1400-headers {
		return fmt.Errorf("send probe: %w", dataplane.ErrTooLong)
	}
	return s.IKESender.SendProbe(local, remote, b)
}

// TestProbeTooLong: the host does not send some probes.
func TestProbeTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, memory.NewSwitch(), func(c *Config) { c.Plane = narrowPlane{c.Plane.(*memory.Plane)} })
		finds(t, a, b)
	})
}

// finds wants 1,400 octets to be found from a to b, and nothing special back.
func finds(t *testing.T, a, b *node) {
	t.Helper()
	sends := func(n *node) (out dataplane.SA) {
		for _, sa := range n.plane.SAs() {
			if sa.Direction == dataplane.Outbound {
				out = sa
			}
		}
		return out
	}
	within(t, time.Minute, "the path MTU is found", func() bool {
		p := a.status("to-b").Path
		back := b.status("to-a").Path
		return p.MTU == 1400 && p.Limited && p.Search == "complete" && sends(a).PathMTU == 1400 && back.MTU == 1500 && !back.Limited
	})
	before := sends(a).SPI
	if err := a.RekeyChild("to-b", "lan"); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "the Child SA is rekeyed", func() bool { return sends(a).SPI != before })
	if sends(a).PathMTU != 1400 || sends(b).PathMTU != 0 {
		t.Errorf("%d octets are believed there, %d back", sends(a).PathMTU, sends(b).PathMTU)
	}
	ping(t, a, b, lan(1, 0), lan(2, 0))
}
