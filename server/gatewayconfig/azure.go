package gatewayconfig

import (
	"fmt"
	"strings"
)

var azureVendor = &vendor{
	name: "Azure",
	ike: map[string]string{
		"aes128": "AES128", "aes192": "AES192", "aes256": "AES256", "aes128gcm16": "GCMAES128", "aes256gcm16": "GCMAES256",
	},
	esp: map[string]string{
		"aes128": "AES128", "aes192": "AES192", "aes256": "AES256",
		"aes128gcm16": "GCMAES128", "aes192gcm16": "GCMAES192", "aes256gcm16": "GCMAES256", "null": "None",
	},
	integrity:    map[string]string{"sha1": "SHA1", "sha256": "SHA256", "sha384": "SHA384"},
	espIntegrity: map[string]string{"sha1": "SHA1", "sha256": "SHA256"},
	groups:       map[string]string{"modp2048": "DHGroup14", "ecp256": "ECP256", "ecp384": "ECP384"},
}

// azurePFS is what Azure calls the groups of perfect forward secrecy.
var azurePFS = map[string]string{"DHGroup14": "PFS14", "ECP256": "ECP256", "ECP384": "ECP384"}

// azureIKESeconds is the lifetime of Azure's IKE SAs, which cannot be chosen.
const azureIKESeconds = 28800

// azure writes commands of the Azure command line: a local network gateway and a connection
// for each edge.
func azure(d *document) error {
	switch {
	case !d.psk():
		return d.gatewayFault("certificate", "the form for Azure is of pre-shared keys alone", "use a pre-shared key")
	case d.Gateway.GetPort() != 0 && d.Gateway.GetPort() != 500:
		return d.gatewayFault("port", "Azure answers at port 500", "leave it out")
	}
	if err := d.only4(azureVendor.name); err != nil {
		return err
	}
	policy, err := d.azurePolicy()
	if err != nil {
		return err
	}
	d.line("# %s, as connections of an Azure VPN gateway", d.Gateway.GetName())
	for _, t := range d.Tunnels {
		d.azureConnection(t, policy)
	}
	if s := d.Tunnels[0].ikeSeconds(); s != azureIKESeconds {
		d.warn("Azure rekeys IKE SAs after %d s whatever is configured; the edges do after %d s", azureIKESeconds, s)
	}
	return nil
}

// azurePolicy is the one policy that a connection has, of the first proposals.
func (d *document) azurePolicy() (string, error) {
	ike, esp := d.ike(), d.esp()
	i, err := d.translateAll(azureVendor, ike[0], false)
	if err != nil {
		return "", err
	}
	e, err := d.translateAll(azureVendor, esp[0], true)
	if err != nil {
		return "", err
	}
	if len(ike)+len(esp) > 2 {
		d.warn("Azure has one policy in a connection, made of the first proposals: %s and %s", ike[0].text, esp[0].text)
	}
	integrity := e.ciphers[0] // a combined mode is its own
	if !esp[0].combined() {
		integrity = e.integrities[0]
	}
	pfs := "None"
	if len(e.groups) > 0 {
		pfs = azurePFS[e.groups[0]]
	}
	seconds := d.Tunnels[0].childSeconds()
	if seconds < 300 {
		return "", d.profileFault("child_rekey_time", fmt.Sprintf("Azure takes 300 s or more, not %d", seconds), "use a profile with such a time")
	}
	kilobytes := d.Tunnels[0].child().GetRekeyBytes() / 1024
	if kilobytes == 0 {
		kilobytes = 2147483647 // the most that there is
	}
	return fmt.Sprintf("--ike-encryption %s --ike-integrity %s --dh-group %s --ipsec-encryption %s --ipsec-integrity %s --pfs-group %s --sa-lifetime %d --sa-max-size %d",
		i.ciphers[0], i.prfs[0], i.groups[0], e.ciphers[0], integrity, pfs, seconds, max(kilobytes, 1024)), nil
}

func (d *document) azureConnection(t Tunnel, policy string) {
	group := d.fill("RESOURCE-GROUP")
	var behind []string
	for _, p := range t.behindEdge() {
		behind = append(behind, p.String())
	}
	d.line("az network local-gateway create --resource-group %s --name %s --gateway-ip-address %s --local-address-prefixes %s",
		group, t.Edge, d.peer(t), strings.Join(behind, " "))
	d.line("az network vpn-connection create --resource-group %s --name %s --vnet-gateway1 %s --local-gateway2 %s --shared-key '%s'",
		group, t.Edge, d.fill("VPN-GATEWAY"), t.Edge, d.fill(secretPlaceholder))
	d.line("az network vpn-connection ipsec-policy add --resource-group %s --connection-name %s %s", group, t.Edge, policy)
	mode := "ResponderOnly"
	if t.gatewayInitiates() {
		mode = "InitiatorOnly"
	}
	d.line("az network vpn-connection update --resource-group %s --name %s --set usePolicyBasedTrafficSelectors=%t connectionMode=%s dpdTimeoutSeconds=%d",
		group, t.Edge, !d.routed(), mode, max(3*t.dpdSeconds(), 9))
	if t.remoteID() != t.Address {
		d.warn("Azure knows edge %s by its address alone: set local_identity of the gateway to %s", t.Edge, d.peer(t))
	}
}
