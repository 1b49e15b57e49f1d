package gatewayconfig

import (
	"cmp"
	"net/netip"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// strongswan writes swanctl.conf. Its keywords of algorithms are ours.
func strongswan(d *document) error {
	d.line("# swanctl.conf of %s, for strongSwan 5.8 or later.", d.Gateway.GetName())
	d.strongswanNotes()
	d.line("connections {")
	for i, t := range d.Tunnels {
		d.strongswanConnection(i+1, t)
	}
	d.line("}")
	if d.psk() {
		d.line("secrets {")
		for _, t := range d.Tunnels {
			d.line("  ike-%s {", t.Edge)
			d.line(`    id-1 = "%s"`, t.localID())
			d.line(`    id-2 = "%s"`, t.remoteID())
			d.line(`    secret = "%s"`, d.fill(secretPlaceholder))
			d.line("  }")
		}
		d.line("}")
	}
	return nil
}

// strongswanNotes are what has to be done besides, as comments.
func (d *document) strongswanNotes() {
	if !d.psk() {
		d.line("#")
		d.line("# The gateway's own certificate is x509/%s, its key is in private.", d.fill(certificatePlaceholder))
		d.line("# The authority of the edges' certificates goes to x509ca/swanherd.pem:")
		for line := range strings.Lines(d.Authority) {
			d.line("# %s", strings.TrimSuffix(line, "\n"))
		}
	}
	if d.routed() {
		d.line("#")
		d.line("# An interface for each tunnel, and the routes into it. In strongswan.conf charon's")
		d.line("# install_routes has to be no.")
		for i, t := range d.Tunnels {
			d.line("#   ip link add swan%d type xfrm if_id %d", i+1, i+1)
			d.line("#   ip link set swan%d up", i+1)
			for _, p := range t.behindEdge() {
				family := ""
				if p.Addr().Is6() {
					family = "-6 "
				}
				d.line("#   ip %sroute add %s dev swan%d metric %d", family, p, i+1, 100+t.Priority)
			}
		}
	}
}

func (d *document) strongswanConnection(n int, t Tunnel) {
	i := t.Intent
	d.line("  %s {", t.Edge)
	d.line("    version = 2")
	d.line("    local_addrs = %s", strongswanLocal(d.Gateway))
	d.line("    remote_addrs = %s", d.peer(t))
	if port := d.Gateway.GetPort(); port != 0 {
		d.line("    local_port = %d", port)
	}
	d.line("    proposals = %s", strings.Join(i.GetIkeProposals(), ", "))
	d.line("    rekey_time = %ds", t.ikeSeconds())
	d.line("    dpd_delay = %ds", t.dpdSeconds())
	if i.GetForceUdpEncapsulation() {
		d.line("    encap = yes")
	}
	if t.gatewayInitiates() {
		d.line("    keyingtries = 0")
	}
	auth := "psk"
	if !d.psk() {
		auth = "pubkey"
	}
	d.line("    local {")
	d.line("      auth = %s", auth)
	d.line(`      id = "%s"`, t.localID())
	if !d.psk() {
		d.line("      certs = %s", d.fill(certificatePlaceholder))
	}
	d.line("    }")
	d.line("    remote {")
	d.line("      auth = %s", auth)
	d.line(`      id = "%s"`, t.remoteID())
	if !d.psk() {
		d.line("      cacerts = swanherd.pem")
	}
	d.line("    }")
	if d.routed() {
		d.line("    if_id_in = %d", n)
		d.line("    if_id_out = %d", n)
	}
	d.line("    children {")
	for _, c := range i.GetChildren() {
		d.strongswanChild(t, c)
	}
	d.line("    }")
	d.line("  }")
}

// strongswanLocal is the address of the gateway itself, if that is one.
func strongswanLocal(g *swanherdv1.Gateway) string {
	if addr, err := netip.ParseAddr(g.GetAddress()); err == nil {
		return addr.String()
	}
	return "%any"
}

func (d *document) strongswanChild(t Tunnel, c *swanherdv1.ChildIntent) {
	d.line("      %s {", c.GetName())
	d.line("        local_ts = %s", strings.Join(c.GetRemoteTs(), ", "))
	d.line("        remote_ts = %s", strings.Join(c.GetLocalTs(), ", "))
	d.line("        esp_proposals = %s", strings.Join(c.GetEspProposals(), ", "))
	d.line("        rekey_time = %ds", c.GetRekeyTime().GetSeconds())
	if n := c.GetRekeyBytes(); n > 0 {
		d.line("        rekey_bytes = %d", n)
	}
	d.line("        replay_window = %d", cmp.Or(c.GetReplayWindow(), 1024))
	d.line("        dpd_action = %s", map[bool]string{true: "restart", false: "clear"}[t.gatewayInitiates()])
	switch {
	case t.gatewayInitiates():
		d.line("        start_action = start")
	case !d.routed():
		d.line("        start_action = trap")
	}
	if len(d.Tunnels) > 1 && !d.routed() {
		d.line("        priority = %d", 1000+t.Priority)
	}
	d.line("      }")
}
