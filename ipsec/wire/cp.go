package wire

import "encoding/binary"

// CPType is the kind of a Configuration payload.
type CPType uint8

// Configuration payload types (IANA IKEv2 Configuration Payload CFG Types).
const (
	CPRequest CPType = 1
	CPReply   CPType = 2
	CPSet     CPType = 3
	CPAck     CPType = 4
)

var cpTypeNames = map[CPType]string{
	CPRequest: "CFG_REQUEST", CPReply: "CFG_REPLY", CPSet: "CFG_SET", CPAck: "CFG_ACK",
}

func (t CPType) String() string { return nameOf(cpTypeNames, t, "CPType") }

// CPAttributeType is the type of a configuration attribute; 15 bits.
type CPAttributeType uint16

// Configuration attributes (IANA IKEv2 Configuration Payload Attribute Types).
const (
	CPInternalIP4Address  CPAttributeType = 1
	CPInternalIP4Netmask  CPAttributeType = 2
	CPInternalIP4DNS      CPAttributeType = 3
	CPInternalIP4NBNS     CPAttributeType = 4
	CPInternalIP4DHCP     CPAttributeType = 6
	CPApplicationVersion  CPAttributeType = 7
	CPInternalIP6Address  CPAttributeType = 8
	CPInternalIP6DNS      CPAttributeType = 10
	CPInternalIP6DHCP     CPAttributeType = 12
	CPInternalIP4Subnet   CPAttributeType = 13
	CPSupportedAttributes CPAttributeType = 14
	CPInternalIP6Subnet   CPAttributeType = 15
	CPInternalDNSDomain   CPAttributeType = 25 // RFC 8598
	CPInternalDNSSECTA    CPAttributeType = 26 // RFC 8598
)

var cpAttributeNames = map[CPAttributeType]string{
	CPInternalIP4Address: "INTERNAL_IP4_ADDRESS", CPInternalIP4Netmask: "INTERNAL_IP4_NETMASK",
	CPInternalIP4DNS: "INTERNAL_IP4_DNS", CPInternalIP4NBNS: "INTERNAL_IP4_NBNS",
	CPInternalIP4DHCP: "INTERNAL_IP4_DHCP", CPApplicationVersion: "APPLICATION_VERSION",
	CPInternalIP6Address: "INTERNAL_IP6_ADDRESS", CPInternalIP6DNS: "INTERNAL_IP6_DNS",
	CPInternalIP6DHCP: "INTERNAL_IP6_DHCP", CPInternalIP4Subnet: "INTERNAL_IP4_SUBNET",
	CPSupportedAttributes: "SUPPORTED_ATTRIBUTES", CPInternalIP6Subnet: "INTERNAL_IP6_SUBNET",
	CPInternalDNSDomain: "INTERNAL_DNS_DOMAIN", CPInternalDNSSECTA: "INTERNAL_DNSSEC_TA",
}

func (t CPAttributeType) String() string { return nameOf(cpAttributeNames, t, "CPAttributeType") }

// CP is the Configuration payload (RFC 7296, Section 3.15).
type CP struct {
	Kind       CPType
	Attributes []CPAttribute
}

// CPAttribute is one configuration attribute. The length of its value is not
// judged here: it is empty in requests, and peers differ in the rest.
type CPAttribute struct {
	Kind  CPAttributeType
	Value []byte
}

const (
	cpAttributeHeaderLen = 4
	cpAttributeReserved  = 0x8000
)

// PayloadType implements Payload.
func (*CP) PayloadType() PayloadType { return PayloadCP }

func parseCP(r *reader) *CP {
	p := &CP{Kind: CPType(r.u8())}
	r.skip(3) // RESERVED
	for r.err == nil && len(r.b) > 0 {
		if len(p.Attributes) == MaxCPAttributes {
			r.fail("more than %d attributes", MaxCPAttributes)
			break
		}
		a := CPAttribute{Kind: CPAttributeType(r.u16() &^ cpAttributeReserved)}
		if n := int(r.u16()); n > 0 {
			a.Value = r.bytes(n)
		}
		p.Attributes = append(p.Attributes, a)
	}
	return p
}

func (p *CP) check() error {
	if len(p.Attributes) > MaxCPAttributes {
		return invalidf("%d attributes exceed the limit of %d", len(p.Attributes), MaxCPAttributes)
	}
	for _, a := range p.Attributes {
		if a.Kind&cpAttributeReserved != 0 {
			return invalidf("attribute type %d does not fit 15 bits", uint16(a.Kind))
		}
		if len(a.Value) > maxPayloadLen {
			return invalidf("%s of %d octets does not fit", a.Kind, len(a.Value))
		}
	}
	return nil
}

func (p *CP) size() int {
	n := 4
	for _, a := range p.Attributes {
		n += cpAttributeHeaderLen + len(a.Value)
	}
	return n
}

func (p *CP) appendTo(b []byte) []byte {
	b = append(b, uint8(p.Kind), 0, 0, 0)
	for _, a := range p.Attributes {
		b = binary.BigEndian.AppendUint16(b, uint16(a.Kind))
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(b, a.Value...)
	}
	return b
}
