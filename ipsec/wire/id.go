package wire

// IDType is the kind of an identity.
type IDType uint8

// Identification types (IANA IKEv2 Identification Payload ID Types).
const (
	IDIPv4   IDType = 1
	IDFQDN   IDType = 2
	IDRFC822 IDType = 3 // e-mail address
	IDIPv6   IDType = 5
	IDDERDN  IDType = 9  // DER-encoded X.500 distinguished name
	IDDERGN  IDType = 10 // DER-encoded X.509 general name
	IDKeyID  IDType = 11 // opaque octets
	IDFCName IDType = 12
	IDNull   IDType = 13 // RFC 7619
)

var idTypeNames = map[IDType]string{
	IDIPv4: "ID_IPV4_ADDR", IDFQDN: "ID_FQDN", IDRFC822: "ID_RFC822_ADDR", IDIPv6: "ID_IPV6_ADDR",
	IDDERDN: "ID_DER_ASN1_DN", IDDERGN: "ID_DER_ASN1_GN", IDKeyID: "ID_KEY_ID", IDFCName: "ID_FC_NAME", IDNull: "ID_NULL",
}

func (t IDType) String() string { return nameOf(idTypeNames, t, "IDType") }

// ID is the Identification payload of the initiator, IDi, or the responder,
// IDr (RFC 7296, Section 3.5).
type ID struct {
	Initiator bool
	Kind      IDType
	Data      []byte

	reserved [3]byte // as received, for Body only
}

// PayloadType implements Payload.
func (p *ID) PayloadType() PayloadType {
	if p.Initiator {
		return PayloadIDi
	}
	return PayloadIDr
}

func parseID(r *reader, initiator bool) *ID {
	p := &ID{Initiator: initiator, Kind: IDType(r.u8())}
	copy(p.reserved[:], r.bytes(3))
	p.Data = r.rest()
	return p
}

// Body returns a copy of the payload less its generic header: what the AUTH
// calculation covers. In a parsed payload it holds the RESERVED octets as they
// were received, for the peer signed those (RFC 7296, Section 2.15).
func (p *ID) Body() []byte {
	b := append(make([]byte, 0, p.size()), uint8(p.Kind))
	b = append(b, p.reserved[:]...)
	return append(b, p.Data...)
}

func (p *ID) check() error {
	n := len(p.Data)
	switch p.Kind {
	case IDIPv4:
		if n != 4 {
			return invalidf("%s of %d octets, want 4", p.Kind, n)
		}
	case IDIPv6:
		if n != 16 {
			return invalidf("%s of %d octets, want 16", p.Kind, n)
		}
	case IDNull:
		if n != 0 { // RFC 7619, Section 2.2
			return invalidf("%s of %d octets, want none", p.Kind, n)
		}
	default:
		if n == 0 {
			return invalidf("%s is empty", p.Kind)
		}
	}
	return nil
}

func (p *ID) size() int { return 4 + len(p.Data) }

func (p *ID) appendTo(b []byte) []byte {
	b = append(b, uint8(p.Kind), 0, 0, 0)
	return append(b, p.Data...)
}
