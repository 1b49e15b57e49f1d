package gatewayconfig

import (
	"fmt"
	"net/netip"
	"strings"
)

var ciscoVendor = &vendor{
	name: "Cisco IOS XE",
	ike: map[string]string{
		"aes128": "aes-cbc-128", "aes192": "aes-cbc-192", "aes256": "aes-cbc-256", "aes128gcm16": "aes-gcm-128", "aes256gcm16": "aes-gcm-256",
	},
	esp: map[string]string{
		"aes128": "esp-aes", "aes192": "esp-aes 192", "aes256": "esp-aes 256",
		"aes128gcm16": "esp-gcm", "aes192gcm16": "esp-gcm 192", "aes256gcm16": "esp-gcm 256", "null": "esp-null",
	},
	integrity:    map[string]string{"sha1": "sha1", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512"},
	espIntegrity: map[string]string{"sha1": "esp-sha-hmac", "sha256": "esp-sha256-hmac", "sha384": "esp-sha384-hmac", "sha512": "esp-sha512-hmac"},
	groups:       groupNumbers,
}

// cisco writes commands of IOS XE: tunnel interfaces where the gateway routes, a crypto map
// where not.
func cisco(d *document) error {
	if err := d.only4(ciscoVendor.name); err != nil {
		return err
	}
	d.line("! %s, for Cisco IOS XE 17", d.Gateway.GetName())
	if err := d.ciscoProposals(); err != nil {
		return err
	}
	if d.psk() {
		d.line("crypto ikev2 keyring SWANHERD")
		for _, t := range d.Tunnels {
			d.line(" peer %s", t.Edge)
			d.line("  address %s", d.peer(t))
			d.line("  pre-shared-key %s", d.fill(secretPlaceholder))
		}
	} else {
		d.line("! import the authority of the edges' certificates: crypto pki authenticate SWANHERD")
		d.line("crypto pki trustpoint SWANHERD")
		d.line(" enrollment terminal pem")
		d.line(" revocation-check none")
	}
	for _, t := range d.Tunnels {
		d.ciscoProfile(t)
	}
	transforms, group, err := d.ciscoTransforms()
	if err != nil {
		return err
	}
	d.line("crypto ipsec security-association replay window-size %d", d.ciscoWindow())
	if d.routed() {
		d.ciscoTunnels(transforms, group)
	} else {
		d.ciscoMap(transforms, group)
	}
	return nil
}

// ciscoWindow is the anti-replay window, of which IOS XE has 64 to 1024 packets.
func (d *document) ciscoWindow() uint32 {
	const most = 1024
	w := d.Tunnels[0].child().GetReplayWindow()
	if w > most {
		d.warn("the anti-replay window of %d packets is %d on IOS XE", w, most)
	}
	return min(w, most)
}

func (d *document) ciscoProposals() error {
	var names []string
	for i, p := range d.ike() {
		w, err := d.translateAll(ciscoVendor, p, false)
		if err != nil {
			return err
		}
		names = append(names, fmt.Sprintf("SWANHERD-%d", i+1))
		d.line("crypto ikev2 proposal %s", names[i])
		d.line(" encryption %s", strings.Join(w.ciphers, " "))
		if p.combined() {
			d.line(" prf %s", strings.Join(w.prfs, " "))
		} else {
			d.line(" integrity %s", strings.Join(w.integrities, " "))
		}
		d.line(" group %s", strings.Join(w.groups, " "))
	}
	d.line("crypto ikev2 policy SWANHERD")
	for _, n := range names {
		d.line(" proposal %s", n)
	}
	return nil
}

// ciscoIdentity is an identity in a profile.
func ciscoIdentity(id string, local bool) string {
	switch kindOf(id) {
	case identityAddress:
		if local {
			return "address " + id
		}
		return "address " + id + " 255.255.255.255"
	case identityMail:
		return "email " + id
	case identityDN:
		if local {
			return "dn"
		}
		return "any"
	}
	return "fqdn " + id
}

func (d *document) ciscoProfile(t Tunnel) {
	d.line("crypto ikev2 profile SWANHERD-%s", t.Edge)
	d.line(" match identity remote %s", ciscoIdentity(t.remoteID(), false))
	d.line(" identity local %s", ciscoIdentity(t.localID(), true))
	if d.psk() {
		d.line(" authentication remote pre-share")
		d.line(" authentication local pre-share")
		d.line(" keyring local SWANHERD")
	} else {
		d.line(" authentication remote rsa-sig")
		d.line(" authentication remote ecdsa-sig")
		d.line(" authentication local rsa-sig")
		d.line(" pki trustpoint SWANHERD verify")
		d.line(" pki trustpoint %s sign", d.fill(certificatePlaceholder))
		d.warn("the edges' own certificates are of Ed25519, of which not every release of IOS XE knows: use a pre-shared key where it does not")
	}
	d.line(" lifetime %d", t.ikeSeconds())
	d.line(" dpd %d 2 periodic", max(t.dpdSeconds(), 10))
	if t.Intent.GetForceUdpEncapsulation() {
		d.warn("IOS XE does not encapsulate in UDP without a NAT: the edges do, by what they tell of addresses")
	}
}

// ciscoTransforms writes the transform sets, and returns their names and the group of
// perfect forward secrecy, empty for none.
func (d *document) ciscoTransforms() (names, group string, err error) {
	var list []string
	for i, p := range d.esp() {
		w, err := d.translateAll(ciscoVendor, p, true)
		if err != nil {
			return "", "", err
		}
		name := fmt.Sprintf("SWANHERD-%d", i+1)
		d.line("crypto ipsec transform-set %s %s", name, strings.Join(append(w.ciphers[:1:1], w.integrities...), " "))
		d.line(" mode tunnel")
		list = append(list, name)
		if len(w.groups) > 0 && group == "" {
			group = w.groups[0]
		}
	}
	return strings.Join(list, " "), group, nil
}

func (d *document) ciscoTunnels(transforms, group string) {
	for i, t := range d.Tunnels {
		d.line("crypto ipsec profile SWANHERD-%s", t.Edge)
		d.ciscoProtection(t, transforms, group)
		d.line("interface Tunnel%d", i+1)
		d.line(" ip unnumbered %s", d.fill("WAN-INTERFACE"))
		d.line(" tunnel source %s", d.fill("WAN-INTERFACE"))
		d.line(" tunnel mode ipsec ipv4")
		d.line(" tunnel destination %s", d.peer(t))
		d.line(" tunnel protection ipsec profile SWANHERD-%s", t.Edge)
		for _, p := range t.behindEdge() {
			d.line("ip route %s %s Tunnel%d %d", p.Addr(), mask(p), i+1, min(1+t.Priority, 254))
		}
	}
}

func (d *document) ciscoProtection(t Tunnel, transforms, group string) {
	d.line(" set transform-set %s", transforms)
	if group != "" {
		d.line(" set pfs group%s", group)
	}
	d.line(" set security-association lifetime seconds %d", t.childSeconds())
	if n := t.child().GetRekeyBytes(); n > 0 {
		d.line(" set security-association lifetime kilobytes %d", max(n/1024, 2560))
	} else {
		d.line(" set security-association lifetime kilobytes disable")
	}
	d.line(" set ikev2-profile SWANHERD-%s", t.Edge)
}

func (d *document) ciscoMap(transforms, group string) {
	wildcard := func(p netip.Prefix) string {
		m := netip.MustParseAddr(mask(p)).As4()
		return netip.AddrFrom4([4]byte{^m[0], ^m[1], ^m[2], ^m[3]}).String()
	}
	for i, t := range d.Tunnels {
		d.line("ip access-list extended SWANHERD-%s", t.Edge)
		for _, p := range t.pairs() {
			d.line(" permit ip %s %s %s %s", p.local.Addr(), wildcard(p.local), p.remote.Addr(), wildcard(p.remote))
		}
		d.line("crypto map SWANHERD %d ipsec-isakmp", 10*(i+1))
		d.line(" set peer %s", d.peer(t))
		d.ciscoProtection(t, transforms, group)
		d.line(" match address SWANHERD-%s", t.Edge)
	}
	d.line("interface %s", d.fill("WAN-INTERFACE"))
	d.line(" crypto map SWANHERD")
}
