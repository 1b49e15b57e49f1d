package model

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// AnyAddress is the address of a gateway that initiates from wherever it is.
const AnyAddress = "any"

// maxGatewayChildren bounds the Child SAs of a tunnel with a gateway that does not route:
// there is one for each pair of prefixes.
const maxGatewayChildren = 256

// hostPattern is a domain name of two labels at least (RFC 1123, Section 2.1), so that
// a mistyped address or keyword is not taken for one.
var hostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// identityPattern has what no vendor's configuration language gives a meaning.
var identityPattern = regexp.MustCompile(`^[A-Za-z0-9 ._@=,:+/*()&-]+$`)

// GatewayInitiates says whether the edges wait for the gateway.
func GatewayInitiates(g *swanherdv1.Gateway) bool {
	return g.GetAddress() == AnyAddress || g.GetInitiator() == swanherdv1.GatewayInitiator_GATEWAY_INITIATOR_GATEWAY
}

// GatewayIdentity is the IKE identity that the gateway proves.
func GatewayIdentity(g *swanherdv1.Gateway) string { return cmp.Or(g.GetIdentity(), g.GetAddress()) }

// Attaches says whether an edge, at a site with these labels, holds a tunnel with the
// gateway, and with which priority: the best, if several attachments say so.
func Attaches(g *swanherdv1.Gateway, edge string, site map[string]string) (priority uint32, ok bool) {
	for _, a := range g.GetAttachments() {
		match := a.GetEdge() == edge
		if s := a.GetSites(); s != nil {
			match = carries(site, s.GetMatchLabels())
		}
		if match && (!ok || a.GetPriority() < priority) {
			priority, ok = a.GetPriority(), true
		}
	}
	return priority, ok
}

// gateway checks a gateway; sites are the prefixes of its network's sites.
func (v *validator) gateway(g *swanherdv1.Gateway, sites []takenPrefix) {
	v.usesProfile(g.GetName(), g.GetProfile())
	v.gatewayAddress(g, sites)
	v.gatewayIdentities(g)
	switch how := g.GetAuthentication().(type) {
	case *swanherdv1.Gateway_PreSharedKey:
		v.gatewayKey(g, how.PreSharedKey.GetKey())
	case *swanherdv1.Gateway_Certificate:
		for i, text := range how.Certificate.GetTrustAnchors() {
			if err := checkAnchors(text); err != nil {
				v.add(g.GetName(), fmt.Sprintf("certificate.trust_anchors[%d]", i), err.Error(), "give the certificate of the authority that issued the gateway's, in PEM")
			}
		}
	}
	v.attachments(g)
	v.gatewayPairs(g)
}

// gatewayPairs checks that no site of an edge that holds a tunnel makes too many pairs of
// prefixes.
func (v *validator) gatewayPairs(g *swanherdv1.Gateway) {
	if g.GetRouting() == swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE {
		return
	}
	byEdge := map[string]bool{} // sites
	for _, a := range g.GetAttachments() {
		byEdge[v.t.Edges.Value(a.GetEdge()).GetSite()] = true
	}
	theirs := families(g.GetPrefixes())
	for row := range v.t.Sites.WithPrefix(networkOf(g.GetName()) + "/") {
		if _, selected := Attaches(g, "", row.Value.GetLabels()); !selected && !byEdge[row.Name] {
			continue
		}
		ours := families(row.Value.GetPrefixes())
		if n := ours[0]*theirs[0] + ours[1]*theirs[1]; n > maxGatewayChildren {
			v.add(g.GetName(), "prefixes", fmt.Sprintf("with those of %s they are %d pairs, each of which has a Child SA; %d are the most", v.called(row.Name), n, maxGatewayChildren),
				"summarize prefixes, or set routing to GATEWAY_ROUTING_ROUTE if the gateway can do that")
			return
		}
	}
}

// families counts the prefixes of IPv4 and of IPv6.
func families(prefixes []string) (n [2]int) {
	for _, text := range prefixes {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			n[0]++
		} else if err == nil {
			n[1]++
		}
	}
	return n
}

func (v *validator) gatewayAddress(g *swanherdv1.Gateway, sites []takenPrefix) {
	wrong := func(problem, remedy string) { v.add(g.GetName(), "address", problem, remedy) }
	text := g.GetAddress()
	if text == AnyAddress {
		if g.GetInitiator() == swanherdv1.GatewayInitiator_GATEWAY_INITIATOR_EDGE {
			v.add(g.GetName(), "initiator", "an edge cannot initiate to any address", "give the gateway's address, or let the gateway initiate")
		}
		return
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		if !hostPattern.MatchString(text) {
			wrong(fmt.Sprintf("%q is neither an address nor a domain name", clip(text)), "write it as 192.0.2.1, 2001:db8::1 or vpn.example.com, or any for a gateway that initiates")
		}
		return
	}
	if addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast() {
		wrong(text+" is not an address at which a gateway is reached", "give a unicast address that the edges have a route to")
		return
	}
	for i, p := range g.GetPrefixes() {
		if prefix, err := netip.ParsePrefix(p); err == nil && prefix.Contains(addr) {
			wrong(fmt.Sprintf("%s is inside prefixes[%d], %s: packets to the gateway would be led into its own tunnel", text, i, p), "take the address out of the prefixes")
			return
		}
	}
	for _, p := range sites {
		if p.prefix.Bits() > 0 && p.prefix.Contains(addr) { // the way out of a site to all there is has it too
			taken := fmt.Sprintf("%s of %s", p.prefix, p.owner)
			if !v.may(p.owner) {
				taken = "a prefix of " + Outside
			}
			wrong(fmt.Sprintf("%s is inside %s: edges of other sites would look for it there, through a tunnel", text, taken), "give the address that the gateway has on the edges' uplinks")
			return
		}
	}
}

func (v *validator) gatewayIdentities(g *swanherdv1.Gateway) {
	if g.GetAddress() == AnyAddress && g.GetIdentity() == "" {
		v.add(g.GetName(), "identity", "missing: of a gateway at any address nothing else tells who it is", "give the IKE identity that it proves, such as vpn.example.com")
	}
	if g.GetLocalIdentity() != "" && g.GetPreSharedKey() == nil {
		v.add(g.GetName(), "local_identity", "is for a pre-shared key: with a certificate an edge has the certificate's identity", "leave it out")
	}
	for field, text := range map[string]string{"identity": g.GetIdentity(), "local_identity": g.GetLocalIdentity()} {
		if text == "" {
			continue
		}
		if problem := checkIdentity(text); problem != "" {
			v.add(g.GetName(), field, fmt.Sprintf("%q %s", clip(text), problem), "write an FQDN, an address, an e-mail address, or a distinguished name such as CN=vpn,O=Example")
		}
	}
}

// checkIdentity says what is wrong with the text of an IKE identity; see ipsec/ident,
// which the controller does not link.
func checkIdentity(text string) string {
	if !identityPattern.MatchString(text) {
		return "has other characters than letters, digits, spaces and ._@=,:+/*()&-"
	}
	_, err := netip.ParseAddr(text)
	switch {
	case err == nil:
	case strings.Contains(text, "="):
		for _, part := range strings.Split(text, ",") {
			if key, value, ok := strings.Cut(part, "="); !ok || strings.TrimSpace(key) == "" || strings.TrimSpace(value) == "" {
				return "is no distinguished name"
			}
		}
	case strings.ContainsAny(text, " /:"):
		return "is no identity"
	case strings.HasPrefix(text, "@") || strings.HasSuffix(text, "@"):
		return "is no e-mail address"
	}
	return ""
}

func (v *validator) gatewayKey(g *swanherdv1.Gateway, key string) {
	network := networkOf(g.GetName())
	field := "pre_shared_key.key"
	if name, err := ParsePreSharedKeyName(key); err != nil {
		v.add(g.GetName(), field, err.Error(), "write "+network+"/preSharedKeys/{pre_shared_key}")
	} else if "networks/"+name.Network != network { // whether it is there or not
		v.add(g.GetName(), field, key+" is in another network", "use a key of "+network)
	} else if _, ok := v.t.PreSharedKeys.Get(key); !ok {
		v.add(g.GetName(), field, key+" does not exist", "create it first, as by swanherd psk create"+v.known(v.t.PreSharedKeys.names(network+"/")))
	}
}

// checkAnchors checks certificates of authorities in PEM.
func checkAnchors(text string) error {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a PEM block %q where a CERTIFICATE is wanted", clip(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d does not parse: %w", n, err)
		}
		if !c.IsCA {
			return fmt.Errorf("certificate %d, of %s, is not an authority's", n, clip(c.Subject.String()))
		}
		n++
	}
	if n == 0 || strings.TrimSpace(string(rest)) != "" {
		return errors.New("is not certificates in PEM")
	}
	return nil
}

// attachments checks which edges hold tunnels with the gateway.
func (v *validator) attachments(g *swanherdv1.Gateway) {
	network := networkOf(g.GetName())
	first := map[string]int{}
	for i, a := range g.GetAttachments() {
		field := fmt.Sprintf("attachments[%d]", i)
		if a.GetSites() != nil {
			v.attachedSites(g, field+".sites", a.GetSites())
			continue
		}
		name := a.GetEdge()
		before, twice := first[name]
		switch _, exists := v.t.Edges.Get(name); {
		case networkOf(name) != network:
			v.add(g.GetName(), field+".edge", fmt.Sprintf("%q is not an edge of %s", clip(name), network), "write "+network+"/edges/{edge}")
		case !exists:
			v.add(g.GetName(), field+".edge", fmt.Sprintf("%s does not exist", clip(name)), "enrol it first, or name one of the network's"+v.known(v.t.Edges.names(network+"/")))
		case twice:
			v.add(g.GetName(), field+".edge", fmt.Sprintf("is that of attachments[%d] too", before), "remove one of the two")
		default:
			first[name] = i
		}
	}
}

// attachedSites checks that a selector picks a site. Whether the site has an edge yet
// does not matter: edges come and go.
func (v *validator) attachedSites(g *swanherdv1.Gateway, field string, s *swanherdv1.GatewaySites) {
	for row := range v.t.Sites.WithPrefix(networkOf(g.GetName()) + "/") {
		if carries(row.Value.GetLabels(), s.GetMatchLabels()) {
			return
		}
	}
	v.add(g.GetName(), field, "selects no site: none has "+labels(s.GetMatchLabels()), "give sites these labels, or name an edge")
}
