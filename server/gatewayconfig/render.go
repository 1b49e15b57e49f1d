package gatewayconfig

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Input is a gateway with its tunnels.
type Input struct {
	Gateway *swanherdv1.Gateway
	Tunnels []Tunnel
	// Authority is the certificate of the network's authority in PEM.
	Authority string
}

// Tunnel is one tunnel as its edge has it.
type Tunnel struct {
	// Edge is the edge's id.
	Edge string
	// Address is where the edge is; empty: not known.
	Address string
	// Priority of the edge among those of its site; lower goes first.
	Priority uint32
	Intent   *swanherdv1.TunnelIntent
}

// Output is a configuration.
type Output struct {
	Config string
	// Placeholders are in Config, for whoever runs the gateway to fill in.
	Placeholders []string
	// Warnings are what Config cannot say.
	Warnings []string
}

// An UnsupportedError is something that a vendor cannot do.
type UnsupportedError struct {
	// Resource and Field to change, as in `networks/n/profiles/p` and `ike_proposals[0]`.
	Resource, Field string
	// Problem, and Remedy for it.
	Problem, Remedy string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: %s: %s; %s", e.Resource, e.Field, e.Problem, e.Remedy)
}

// Placeholders for what is not the controller's to know.
const (
	secretPlaceholder      = "PRE-SHARED-KEY"
	certificatePlaceholder = "GATEWAY-CERTIFICATE"
	addressPlaceholder     = "EDGE-ADDRESS"
)

var renderers = map[swanherdv1.GatewayConfigFormat]func(*document) error{
	swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN:  strongswan,
	swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_CISCO_IOSXE: cisco,
	swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_FORTIOS:     fortios,
	swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_JUNIPER:     juniper,
	swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_AWS:         aws,
	swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_AZURE:       azure,
}

// Render writes the gateway's configuration. The error is an *UnsupportedError when the
// vendor cannot do something of it.
func Render(format swanherdv1.GatewayConfigFormat, in Input) (Output, error) {
	render, ok := renderers[format]
	if !ok {
		return Output{}, fmt.Errorf("no format %v", format)
	}
	in.Tunnels = slices.Clone(in.Tunnels)
	slices.SortFunc(in.Tunnels, func(a, b Tunnel) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Edge, b.Edge))
	})
	d := &document{Input: in}
	if err := render(d); err != nil {
		return Output{}, err
	}
	d.warnOfAddresses()
	return Output{Config: d.text.String(), Placeholders: d.placeholders, Warnings: d.warnings}, nil
}

// document is a configuration in the making.
type document struct {
	Input
	text         strings.Builder
	placeholders []string
	warnings     []string
}

// line writes one line.
func (d *document) line(format string, args ...any) { fmt.Fprintf(&d.text, format+"\n", args...) }

// fill notes a placeholder and returns it.
func (d *document) fill(placeholder string) string {
	if !slices.Contains(d.placeholders, placeholder) {
		d.placeholders = append(d.placeholders, placeholder)
	}
	return placeholder
}

func (d *document) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(d.warnings, w) {
		d.warnings = append(d.warnings, w)
	}
}

// warnOfAddresses tells of edges that a gateway elsewhere may not reach.
func (d *document) warnOfAddresses() {
	for _, t := range d.Tunnels {
		addr, err := netip.ParseAddr(t.Address)
		switch {
		case err != nil:
			d.warn("edge %s has not reported an address: fill in %s", t.Edge, addressPlaceholder)
		case addr.IsPrivate():
			d.warn("edge %s is at %s, which is private: if a NAT is before it, put the NAT's address there", t.Edge, addr)
		}
	}
}

// peer is where the edge of a tunnel is.
func (d *document) peer(t Tunnel) string {
	if t.Address == "" {
		return d.fill(addressPlaceholder)
	}
	return t.Address
}

// gatewayFault is an error about a field of the gateway.
func (d *document) gatewayFault(field, problem, remedy string) error {
	return &UnsupportedError{Resource: d.Gateway.GetName(), Field: field, Problem: problem, Remedy: remedy}
}

// profileFault is one about a field of its profile.
func (d *document) profileFault(field, problem, remedy string) error {
	return &UnsupportedError{Resource: d.Gateway.GetProfile(), Field: field, Problem: problem, Remedy: remedy}
}

func (d *document) psk() bool { return d.Gateway.GetPreSharedKey() != nil }

func (d *document) routed() bool {
	return d.Gateway.GetRouting() == swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE
}

// gatewayInitiates says whether it is the gateway that begins.
func (t Tunnel) gatewayInitiates() bool {
	return t.Intent.GetRole() == swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER
}

// localID and remoteID are the identities as the gateway sees them.
func (t Tunnel) localID() string  { return t.Intent.GetAuthentication().GetRemoteId() }
func (t Tunnel) remoteID() string { return t.Intent.GetAuthentication().GetLocalId() }

func (t Tunnel) ikeSeconds() int64   { return t.Intent.GetIkeRekeyTime().GetSeconds() }
func (t Tunnel) dpdSeconds() int64   { return t.Intent.GetDpdDelay().GetSeconds() }
func (t Tunnel) childSeconds() int64 { return t.child().GetRekeyTime().GetSeconds() }

// child is the first Child SA: what is not of its selectors is the same in all.
func (t Tunnel) child() *swanherdv1.ChildIntent { return t.Intent.GetChildren()[0] }

// selectorPair is what a Child SA has, as the gateway sees it.
type selectorPair struct{ local, remote netip.Prefix }

// pairs are those of all Child SAs.
func (t Tunnel) pairs() []selectorPair {
	var out []selectorPair
	for _, c := range t.Intent.GetChildren() {
		for i := range min(len(c.GetLocalTs()), len(c.GetRemoteTs())) {
			local, errLocal := netip.ParsePrefix(c.GetRemoteTs()[i])
			remote, errRemote := netip.ParsePrefix(c.GetLocalTs()[i])
			if errLocal == nil && errRemote == nil {
				out = append(out, selectorPair{local, remote})
			}
		}
	}
	return out
}

// behindEdge are the prefixes that the gateway reaches through the tunnel.
func (t Tunnel) behindEdge() []netip.Prefix {
	var out []netip.Prefix
	for _, c := range t.Intent.GetChildren() {
		texts := c.GetLocalPrefixes()
		if len(texts) == 0 {
			texts = c.GetLocalTs()
		}
		for _, text := range texts {
			if p, err := netip.ParsePrefix(text); err == nil && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// only4 refuses IPv6 inside the tunnels, in a format that is written for IPv4.
func (d *document) only4(vendor string) error {
	for _, t := range d.Tunnels {
		for _, p := range t.pairs() {
			if !p.local.Addr().Is4() {
				return d.gatewayFault("prefixes", "the form for "+vendor+" is of IPv4 alone", "make a gateway of its own for IPv6, or write that part by hand")
			}
		}
	}
	return nil
}

// mask is a prefix's in dotted form.
func mask(p netip.Prefix) string {
	m := ^uint32(0) << (32 - p.Bits())
	if p.Bits() == 0 {
		m = 0
	}
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}).String()
}

// identityKind tells the forms of identities apart, as ipsec/ident does.
type identityKind int

const (
	identityFQDN identityKind = iota
	identityAddress
	identityMail
	identityDN
)

func kindOf(id string) identityKind {
	_, err := netip.ParseAddr(id)
	switch {
	case err == nil:
		return identityAddress
	case strings.Contains(id, "="):
		return identityDN
	case strings.Contains(id, "@"):
		return identityMail
	}
	return identityFQDN
}
