package gatewayconfig

import (
	"fmt"
	"strings"
)

var fortiosVendor = &vendor{
	name: "FortiOS",
	ike: map[string]string{
		"aes128": "aes128", "aes192": "aes192", "aes256": "aes256", "aes128gcm16": "aes128gcm", "aes256gcm16": "aes256gcm", "chacha20poly1305": "chacha20poly1305",
	},
	esp: map[string]string{
		"aes128": "aes128", "aes192": "aes192", "aes256": "aes256", "aes128gcm16": "aes128gcm", "aes256gcm16": "aes256gcm",
		"chacha20poly1305": "chacha20poly1305", "null": "null",
	},
	integrity:    map[string]string{"sha1": "sha1", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512"},
	espIntegrity: map[string]string{"sha1": "sha1", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512"},
	groups: map[string]string{
		"modp2048": "14", "modp3072": "15", "modp4096": "16", "ecp256": "19", "ecp384": "20", "ecp521": "21", "x25519": "31",
	},
}

// fortios writes commands of FortiOS, with a tunnel interface for each edge.
func fortios(d *document) error {
	if err := d.only4(fortiosVendor.name); err != nil {
		return err
	}
	ike, ikeGroups, err := d.fortiosProposals(d.ike(), false)
	if err != nil {
		return err
	}
	esp, espGroups, err := d.fortiosProposals(d.esp(), true)
	if err != nil {
		return err
	}
	d.line("# %s, for FortiOS 7", d.Gateway.GetName())
	if !d.psk() {
		d.fortiosPeers()
	}
	d.line("config vpn ipsec phase1-interface")
	for i, t := range d.Tunnels {
		d.fortiosPhase1(i+1, t, ike, ikeGroups)
	}
	d.line("end")
	d.line("config vpn ipsec phase2-interface")
	for i, t := range d.Tunnels {
		for j, p := range t.pairs() {
			d.fortiosPhase2(i+1, j+1, t, p, esp, espGroups)
		}
	}
	d.line("end")
	d.line("config router static")
	for i, t := range d.Tunnels {
		for _, p := range t.behindEdge() {
			d.line("    edit 0")
			d.line("        set dst %s %s", p.Addr(), mask(p))
			d.line(`        set device "swan%d"`, i+1)
			d.line("        set priority %d", 1+t.Priority)
			d.line("    next")
		}
	}
	d.line("end")
	d.warn("FortiOS passes traffic only by policies of its firewall: add those between swan1 and the LAN")
	return nil
}

// fortiosProposals joins what FortiOS has in one list, and the groups in another.
func (d *document) fortiosProposals(list []proposal, ofESP bool) (texts, groups string, err error) {
	var out, all []string
	for _, p := range list {
		w, err := d.translateAll(fortiosVendor, p, ofESP)
		if err != nil {
			return "", "", err
		}
		for _, c := range w.ciphers {
			switch {
			case p.combined() && ofESP:
				out = append(out, c)
			case p.combined():
				for _, prf := range w.prfs {
					out = append(out, c+"-prf"+prf)
				}
			default:
				for _, i := range w.integrities {
					out = append(out, c+"-"+i)
				}
			}
		}
		for _, g := range w.groups {
			if !strings.Contains(" "+strings.Join(all, " ")+" ", " "+g+" ") {
				all = append(all, g)
			}
		}
	}
	if len(list) > 1 {
		d.warn("FortiOS offers every proposal with every group, which is more than the edges take: both ends agree on one that is in both")
	}
	return strings.Join(out, " "), strings.Join(all, " "), nil
}

func (d *document) fortiosPeers() {
	d.line("# Import the authority of the edges' certificates first; it is called CA_Cert_1 then.")
	d.line("config user peer")
	for i, t := range d.Tunnels {
		d.line(`    edit "swan%d"`, i+1)
		d.line(`        set ca "%s"`, d.fill("CA_Cert_1"))
		d.line(`        set cn "%s"`, t.remoteID())
		d.line("    next")
	}
	d.line("end")
}

func (d *document) fortiosPhase1(n int, t Tunnel, proposals, groups string) {
	d.line(`    edit "swan%d"`, n)
	d.line(`        set interface "%s"`, d.fill("WAN-INTERFACE"))
	d.line("        set ike-version 2")
	d.line("        set keylife %d", t.ikeSeconds())
	d.line("        set remote-gw %s", d.peer(t))
	d.line("        set net-device disable")
	d.line("        set proposal %s", proposals)
	d.line("        set dhgrp %s", groups)
	d.line(`        set localid "%s"`, t.localID())
	d.line("        set localid-type %s", map[identityKind]string{
		identityAddress: "address", identityFQDN: "fqdn", identityMail: "user-fqdn", identityDN: "asn1dn",
	}[kindOf(t.localID())])
	if d.psk() {
		d.line("        set peertype one")
		d.line(`        set peerid "%s"`, t.remoteID())
		d.line(`        set psksecret "%s"`, d.fill(secretPlaceholder))
	} else {
		d.line("        set authmethod signature")
		d.line(`        set certificate "%s"`, d.fill(certificatePlaceholder))
		d.line("        set peertype peer")
		d.line(`        set peer "swan%d"`, n)
	}
	d.line("        set dpd on-idle")
	d.line("        set dpd-retryinterval %d", t.dpdSeconds())
	nat := "enable"
	if t.Intent.GetForceUdpEncapsulation() {
		nat = "forced"
	}
	d.line("        set nattraversal %s", nat)
	if !t.gatewayInitiates() {
		d.line("        set passive-mode enable")
	}
	d.line("    next")
}

func (d *document) fortiosPhase2(n, m int, t Tunnel, p selectorPair, proposals, groups string) {
	d.line(`    edit "%s"`, fmt.Sprintf("swan%d-%d", n, m))
	d.line(`        set phase1name "swan%d"`, n)
	d.line("        set proposal %s", proposals)
	if groups == "" {
		d.line("        set pfs disable")
	} else {
		d.line("        set pfs enable")
		d.line("        set dhgrp %s", groups)
	}
	d.line("        set keylifeseconds %d", t.childSeconds())
	if n := t.child().GetRekeyBytes(); n > 0 {
		d.line("        set keylife-type both")
		d.line("        set keylifekbs %d", max(n/1024, 5120))
	}
	d.line("        set src-subnet %s %s", p.local.Addr(), mask(p.local))
	d.line("        set dst-subnet %s %s", p.remote.Addr(), mask(p.remote))
	if t.gatewayInitiates() {
		d.line("        set auto-negotiate enable")
	}
	d.line("    next")
}
