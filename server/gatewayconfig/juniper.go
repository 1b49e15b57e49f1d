package gatewayconfig

import (
	"fmt"
	"strings"
)

var juniperVendor = &vendor{
	name: "Junos",
	ike: map[string]string{
		"aes128": "aes-128-cbc", "aes192": "aes-192-cbc", "aes256": "aes-256-cbc", "aes128gcm16": "aes-128-gcm", "aes256gcm16": "aes-256-gcm",
	},
	esp: map[string]string{
		"aes128": "aes-128-cbc", "aes192": "aes-192-cbc", "aes256": "aes-256-cbc",
		"aes128gcm16": "aes-128-gcm", "aes192gcm16": "aes-192-gcm", "aes256gcm16": "aes-256-gcm",
	},
	integrity: map[string]string{"sha1": "sha1", "sha256": "sha-256", "sha384": "sha-384", "sha512": "sha-512"},
	espIntegrity: map[string]string{
		"sha1": "hmac-sha1-96", "sha256": "hmac-sha-256-128", "sha384": "hmac-sha-384", "sha512": "hmac-sha-512",
	},
	groups: map[string]string{
		"modp2048": "group14", "modp3072": "group15", "modp4096": "group16", "ecp256": "group19", "ecp384": "group20", "ecp521": "group21",
	},
}

// juniper writes set commands of Junos for SRX firewalls, with a tunnel interface for each
// edge and traffic selectors on it.
func juniper(d *document) error {
	if err := d.only4(juniperVendor.name); err != nil {
		return err
	}
	d.line("# %s, for Junos 21 or later on SRX", d.Gateway.GetName())
	if err := d.juniperIKE(); err != nil {
		return err
	}
	for i, t := range d.Tunnels {
		d.juniperGateway(t)
		d.juniperVPN(i+1, t)
	}
	d.warn("Junos passes traffic only by security policies: put the st0 units into a zone, and add policies between it and the LAN's")
	return nil
}

func (d *document) juniperIKE() error {
	method := "pre-shared-keys"
	if !d.psk() {
		method = "certificates"
		d.line("# Load the authority of the edges' certificates first, as ca-profile swanherd.")
	}
	for i, p := range d.ike() {
		w, err := d.translateAll(juniperVendor, p, false)
		if err != nil {
			return err
		}
		if w.ciphers[0] == "aes-256-gcm" && w.prfs[0] != "sha-384" {
			return d.profileFault(p.field, "Junos has AES-256-GCM with the pseudorandom function SHA-384 alone", "propose prfsha384")
		}
		set := fmt.Sprintf("set security ike proposal swanherd-%d ", i+1)
		d.line(set+"authentication-method %s", method)
		d.line(set+"dh-group %s", w.groups[0])
		d.line(set+"encryption-algorithm %s", w.ciphers[0])
		d.line(set+"authentication-algorithm %s", w.prfs[0]) // with a combined mode it is the pseudorandom function alone
		d.line(set+"lifetime-seconds %d", d.Tunnels[0].ikeSeconds())
		d.line("set security ike policy swanherd proposals swanherd-%d", i+1)
	}
	if d.psk() {
		d.line(`set security ike policy swanherd pre-shared-key ascii-text "%s"`, d.fill(secretPlaceholder))
	} else {
		d.line("set security ike policy swanherd certificate local-certificate %s", d.fill(certificatePlaceholder))
	}
	group := ""
	for i, p := range d.esp() {
		w, err := d.translateAll(juniperVendor, p, true)
		if err != nil {
			return err
		}
		set := fmt.Sprintf("set security ipsec proposal swanherd-%d ", i+1)
		d.line(set + "protocol esp")
		d.line(set+"encryption-algorithm %s", w.ciphers[0])
		if len(w.integrities) > 0 {
			d.line(set+"authentication-algorithm %s", w.integrities[0])
		}
		d.line(set+"lifetime-seconds %d", d.Tunnels[0].childSeconds())
		if n := d.Tunnels[0].child().GetRekeyBytes(); n > 0 {
			d.line(set+"lifetime-kilobytes %d", max(n/1024, 64))
		}
		d.line("set security ipsec policy swanherd proposals swanherd-%d", i+1)
		if len(w.groups) > 0 && group == "" {
			group = w.groups[0]
		}
	}
	if group != "" {
		d.line("set security ipsec policy swanherd perfect-forward-secrecy keys %s", group)
	}
	return nil
}

// juniperIdentity is an identity of a gateway.
func juniperIdentity(id string) string {
	switch kindOf(id) {
	case identityAddress:
		if strings.Contains(id, ":") {
			return "inet6 " + id
		}
		return "inet " + id
	case identityMail:
		return "user-at-hostname " + id
	case identityDN:
		return "distinguished-name"
	}
	return "hostname " + id
}

func (d *document) juniperGateway(t Tunnel) {
	set := "set security ike gateway " + t.Edge + " "
	d.line(set + "ike-policy swanherd")
	d.line(set+"address %s", d.peer(t))
	d.line(set+"dead-peer-detection interval %d", min(max(t.dpdSeconds(), 2), 60))
	d.line(set+"local-identity %s", juniperIdentity(t.localID()))
	remote := juniperIdentity(t.remoteID())
	if kindOf(t.remoteID()) == identityDN {
		remote += ` container "` + t.remoteID() + `"`
	}
	d.line(set+"remote-identity %s", remote)
	d.line(set+"external-interface %s", d.fill("EXTERNAL-INTERFACE"))
	d.line(set + "version v2-only")
	if t.Intent.GetForceUdpEncapsulation() {
		d.warn("Junos does not encapsulate in UDP without a NAT: the edges do, by what they tell of addresses")
	}
}

func (d *document) juniperVPN(n int, t Tunnel) {
	set := "set security ipsec vpn " + t.Edge + " "
	d.line("set interfaces st0 unit %d family inet", n)
	d.line(set+"bind-interface st0.%d", n)
	d.line(set+"ike gateway %s", t.Edge)
	d.line(set + "ike ipsec-policy swanherd")
	d.line(set+"ike anti-replay-window-size %d", min(max(t.child().GetReplayWindow(), 64), 8192))
	if d.routed() {
		d.line(set + "ike proxy-identity local 0.0.0.0/0")
		d.line(set + "ike proxy-identity remote 0.0.0.0/0")
		for _, p := range t.behindEdge() {
			d.line("set routing-options static route %s qualified-next-hop st0.%d preference %d", p, n, 5+t.Priority)
		}
	} else {
		for i, p := range t.pairs() {
			d.line(set+"traffic-selector ts%d local-ip %s", i+1, p.local)
			d.line(set+"traffic-selector ts%d remote-ip %s", i+1, p.remote)
			if len(d.Tunnels) > 1 {
				d.line(set+"traffic-selector ts%d metric %d", i+1, 5+t.Priority)
			}
		}
	}
	when := "responder-only"
	if t.gatewayInitiates() {
		when = "immediately"
	}
	d.line(set+"establish-tunnels %s", when)
}
