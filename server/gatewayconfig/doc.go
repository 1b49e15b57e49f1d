// Package gatewayconfig writes the configuration of a third-party gateway: what the edges
// of its tunnels are planned to negotiate, seen from the other end, in the language of
// whoever runs it.
//
// It takes the edges' intents as the plan has them, so that what it says cannot differ from
// what they run. What a vendor cannot do is an error that names the field to change; it is
// never left out in silence. The names and ranges are of the vendors' documentation:
//
//   - strongSwan: swanctl.conf(5).
//   - Cisco: Security for VPNs with IPsec, FlexVPN and IKEv2 configuration guides, IOS XE 17.
//   - Fortinet: FortiOS CLI reference, vpn ipsec phase1-interface and phase2-interface.
//   - Juniper: Junos CLI reference, security ike and security ipsec.
//   - AWS: Site-to-Site VPN user guide, tunnel options.
//   - Azure: VPN Gateway, about cryptographic requirements; az network vpn-connection.
//
// The package does no I/O. Secrets never reach it: there is a placeholder in their place.
package gatewayconfig
