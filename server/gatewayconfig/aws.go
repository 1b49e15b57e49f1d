package gatewayconfig

import (
	"encoding/json"
	"fmt"
	"slices"
)

var awsVendor = &vendor{
	name: "AWS",
	ike: map[string]string{
		"aes128": "AES128", "aes256": "AES256", "aes128gcm16": "AES128-GCM-16", "aes256gcm16": "AES256-GCM-16",
	},
	esp: map[string]string{
		"aes128": "AES128", "aes256": "AES256", "aes128gcm16": "AES128-GCM-16", "aes256gcm16": "AES256-GCM-16",
	},
	integrity:    map[string]string{"sha1": "SHA1", "sha256": "SHA2-256", "sha384": "SHA2-384", "sha512": "SHA2-512"},
	espIntegrity: map[string]string{"sha1": "SHA1", "sha256": "SHA2-256", "sha384": "SHA2-384", "sha512": "SHA2-512"},
	groups:       groupNumbers,
}

// awsValue is how AWS lists algorithms.
type awsValue struct {
	Value any
}

// awsTunnel are the options of a tunnel, by the names of AWS.
type awsTunnel struct {
	PreSharedKey               string
	Phase1LifetimeSeconds      int64
	Phase2LifetimeSeconds      int64
	ReplayWindowSize           uint32
	DPDTimeoutSeconds          int64
	DPDTimeoutAction           string
	StartupAction              string
	IKEVersions                []awsValue
	Phase1EncryptionAlgorithms []awsValue
	Phase1IntegrityAlgorithms  []awsValue
	Phase1DHGroupNumbers       []awsValue
	Phase2EncryptionAlgorithms []awsValue
	Phase2IntegrityAlgorithms  []awsValue
	Phase2DHGroupNumbers       []awsValue `json:",omitempty"`
}

type awsOptions struct {
	StaticRoutesOnly      bool
	LocalIpv4NetworkCidr  string // of the edges, whom AWS calls the customer
	RemoteIpv4NetworkCidr string
	TunnelOptions         []awsTunnel
}

// aws writes commands of the AWS command line for a site-to-site VPN connection for each
// edge.
func aws(d *document) error {
	switch {
	case !d.psk():
		return d.gatewayFault("certificate", "AWS takes certificates of AWS Private CA alone", "use a pre-shared key")
	case d.Gateway.GetPort() != 0 && d.Gateway.GetPort() != 500:
		return d.gatewayFault("port", "AWS answers at port 500", "leave it out")
	}
	if err := d.only4(awsVendor.name); err != nil {
		return err
	}
	d.line("# %s, as site-to-site VPN connections of AWS", d.Gateway.GetName())
	for _, t := range d.Tunnels {
		options, err := d.awsOptions(t)
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(options, "", "  ")
		if err != nil {
			return fmt.Errorf("encode options: %w", err)
		}
		d.line("aws ec2 create-customer-gateway --type ipsec.1 --bgp-asn 65000 --ip-address %s --device-name %s", d.peer(t), t.Edge)
		d.line("cat > %s.json <<'EOF'", t.Edge)
		d.line("%s", b)
		d.line("EOF")
		d.line("aws ec2 create-vpn-connection --type ipsec.1 --customer-gateway-id %s --vpn-gateway-id %s --options file://%s.json",
			d.fill("CUSTOMER-GATEWAY-ID"), d.fill("VPN-GATEWAY-ID"), t.Edge)
		for _, p := range t.behindEdge() {
			d.line("aws ec2 create-vpn-connection-route --vpn-connection-id %s --destination-cidr-block %s", d.fill("VPN-CONNECTION-ID"), p)
		}
		if t.remoteID() != t.Address {
			d.warn("AWS knows edge %s by its address alone: set local_identity of the gateway to %s", t.Edge, d.peer(t))
		}
	}
	d.warn("AWS chooses the addresses of its tunnels: put that of the first one into address, and leave identity empty")
	return nil
}

func (d *document) awsOptions(t Tunnel) (awsOptions, error) {
	o := awsOptions{StaticRoutesOnly: true, LocalIpv4NetworkCidr: "0.0.0.0/0", RemoteIpv4NetworkCidr: "0.0.0.0/0"}
	if pairs := t.pairs(); !d.routed() {
		if len(pairs) > 1 {
			return o, d.gatewayFault("routing", "AWS has one pair of traffic selectors in a connection, and there are several prefixes", "set routing to GATEWAY_ROUTING_ROUTE")
		}
		o.RemoteIpv4NetworkCidr, o.LocalIpv4NetworkCidr = pairs[0].local.String(), pairs[0].remote.String()
	}
	if s := t.ikeSeconds(); s < 900 || s > 28800 {
		return o, d.profileFault("ike_rekey_time", fmt.Sprintf("AWS takes 900 to 28800 s, not %d", s), "use a profile with such a time")
	}
	if s := t.childSeconds(); s < 900 || s > 3600 || s > t.ikeSeconds() {
		return o, d.profileFault("child_rekey_time", fmt.Sprintf("AWS takes 900 to 3600 s and no more than ike_rekey_time, not %d", s), "use a profile with such a time")
	}
	w := awsTunnel{
		PreSharedKey: d.fill(secretPlaceholder), Phase1LifetimeSeconds: t.ikeSeconds(), Phase2LifetimeSeconds: t.childSeconds(),
		ReplayWindowSize:  min(max(t.child().GetReplayWindow(), 64), 2048),
		DPDTimeoutSeconds: max(3*t.dpdSeconds(), 30), DPDTimeoutAction: "clear", StartupAction: "add", IKEVersions: []awsValue{{"ikev2"}},
	}
	if t.gatewayInitiates() {
		w.DPDTimeoutAction, w.StartupAction = "restart", "start"
	}
	for _, p := range d.ike() {
		x, err := d.translateAll(awsVendor, p, false)
		if err != nil {
			return o, err
		}
		w.Phase1EncryptionAlgorithms = awsAdd(w.Phase1EncryptionAlgorithms, x.ciphers)
		w.Phase1IntegrityAlgorithms = awsAdd(w.Phase1IntegrityAlgorithms, x.prfs) // with a combined mode it is the pseudorandom function alone
		w.Phase1DHGroupNumbers = awsAdd(w.Phase1DHGroupNumbers, x.groups)
	}
	for _, p := range d.esp() {
		x, err := d.translateAll(awsVendor, p, true)
		if err != nil {
			return o, err
		}
		if len(x.groups) == 0 {
			return o, d.profileFault(p.field, "AWS always makes Child SAs with a key exchange", "add one, as in aes256gcm16-ecp384")
		}
		w.Phase2EncryptionAlgorithms = awsAdd(w.Phase2EncryptionAlgorithms, x.ciphers)
		if len(x.integrities) == 0 { // AWS wants one; with a combined mode it means nothing
			x.integrities = []string{"SHA2-256"}
		}
		w.Phase2IntegrityAlgorithms = awsAdd(w.Phase2IntegrityAlgorithms, x.integrities)
		w.Phase2DHGroupNumbers = awsAdd(w.Phase2DHGroupNumbers, x.groups)
	}
	o.TunnelOptions = []awsTunnel{w}
	return o, nil
}

// awsAdd adds what is not there yet; groups are numbers.
func awsAdd(list []awsValue, words []string) []awsValue {
	for _, word := range words {
		v := awsValue{word}
		var n int
		if _, err := fmt.Sscanf(word, "%d", &n); err == nil {
			v.Value = n
		}
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}
