package wire

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// HeaderLen is the length of the IKE header in octets.
const HeaderLen = 28

// SPI is the Security Parameter Index of an IKE SA, chosen by one of its ends.
type SPI [8]byte

// IsZero reports whether the SPI is not set: the responder's in the first
// message of an IKE SA.
func (s SPI) IsZero() bool { return s == SPI{} }

// Uint64 returns the SPI as a number in network byte order.
func (s SPI) Uint64() uint64 { return binary.BigEndian.Uint64(s[:]) }

// String returns 16 hexadecimal digits.
func (s SPI) String() string { return hex.EncodeToString(s[:]) }

// ExchangeType is the Exchange Type of the IKE header.
type ExchangeType uint8

// Exchange types (IANA IKEv2 Exchange Types).
const (
	ExchangeIKESAInit        ExchangeType = 34
	ExchangeIKEAuth          ExchangeType = 35
	ExchangeCreateChildSA    ExchangeType = 36
	ExchangeInformational    ExchangeType = 37
	ExchangeIKESessionResume ExchangeType = 38
	ExchangeGSAAuth          ExchangeType = 39
	ExchangeGSARegistration  ExchangeType = 40
	ExchangeGSARekey         ExchangeType = 41
	ExchangeGSAInbandRekey   ExchangeType = 42
	ExchangeIKEIntermediate  ExchangeType = 43
	ExchangeIKEFollowupKE    ExchangeType = 44
)

var exchangeNames = map[ExchangeType]string{
	ExchangeIKESAInit:        "IKE_SA_INIT",
	ExchangeIKEAuth:          "IKE_AUTH",
	ExchangeCreateChildSA:    "CREATE_CHILD_SA",
	ExchangeInformational:    "INFORMATIONAL",
	ExchangeIKESessionResume: "IKE_SESSION_RESUME",
	ExchangeGSAAuth:          "GSA_AUTH",
	ExchangeGSARegistration:  "GSA_REGISTRATION",
	ExchangeGSARekey:         "GSA_REKEY",
	ExchangeGSAInbandRekey:   "GSA_INBAND_REKEY",
	ExchangeIKEIntermediate:  "IKE_INTERMEDIATE",
	ExchangeIKEFollowupKE:    "IKE_FOLLOWUP_KE",
}

func (e ExchangeType) String() string { return nameOf(exchangeNames, e, "ExchangeType") }

// Flags are the flag bits of the IKE header.
type Flags uint8

// Flag bits (RFC 7296, Section 3.1).
const (
	FlagInitiator Flags = 0x08 // sent by the original initiator of the IKE SA
	FlagVersion   Flags = 0x10 // sender speaks a higher major version; never sent
	FlagResponse  Flags = 0x20 // response to the request with this Message ID

	// flagsSent are the bits that may be set in our messages.
	flagsSent = FlagInitiator | FlagResponse
)

// String lists the set flags as "I|R"; "-" for none.
func (f Flags) String() string {
	var parts []string
	for _, n := range []struct {
		bit  Flags
		name string
	}{{FlagInitiator, "I"}, {FlagVersion, "V"}, {FlagResponse, "R"}} {
		if f&n.bit != 0 {
			parts = append(parts, n.name)
		}
	}
	if rest := f &^ (FlagInitiator | FlagVersion | FlagResponse); rest != 0 {
		parts = append(parts, fmt.Sprintf("%#02x", uint8(rest)))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "|")
}

// Header is the IKE header (RFC 7296, Section 3.1).
type Header struct {
	InitiatorSPI SPI
	ResponderSPI SPI
	NextPayload  PayloadType // type of the first payload; set by Append
	Major        uint8       // 2 for IKEv2; 4 bits
	Minor        uint8       // 0; ignored on receipt; 4 bits
	Exchange     ExchangeType
	Flags        Flags
	MessageID    uint32
	Length       uint32 // octets of the whole message; set by Append
}

// IsResponse reports whether the Response flag is set.
func (h Header) IsResponse() bool { return h.Flags&FlagResponse != 0 }

// FromInitiator reports whether the original initiator of the IKE SA sent it.
func (h Header) FromInitiator() bool { return h.Flags&FlagInitiator != 0 }

// ParseHeader reads the IKE header at the start of b. It fails only if b is
// shorter than HeaderLen: a message of another major version still has to be
// answered (RFC 7296, Section 2.5), and everything else is checked by Parse.
func ParseHeader(b []byte) (Header, error) {
	r := reader{b: b}
	var h Header
	copy(h.InitiatorSPI[:], r.bytes(8))
	copy(h.ResponderSPI[:], r.bytes(8))
	h.NextPayload = PayloadType(r.u8())
	version := r.u8()
	h.Major, h.Minor = version>>4, version&0x0f
	h.Exchange = ExchangeType(r.u8())
	h.Flags = Flags(r.u8())
	h.MessageID = r.u32()
	h.Length = r.u32()
	if r.err != nil {
		return Header{}, r.err
	}
	return h, nil
}

// check holds what both directions demand of a version 2 header.
func (h Header) check() error {
	if h.Major != 2 {
		return invalidf("major version %d, only 2 is supported", h.Major)
	}
	if h.Minor > 0x0f {
		return invalidf("minor version %d does not fit four bits", h.Minor)
	}
	if h.InitiatorSPI.IsZero() {
		return invalid("initiator's SPI is zero") // RFC 7296, Section 3.1
	}
	return nil
}

// appendTo writes the header as it is. Bits that must be zero when sent are
// cleared.
func (h Header) appendTo(b []byte) []byte {
	b = append(b, h.InitiatorSPI[:]...)
	b = append(b, h.ResponderSPI[:]...)
	b = append(b, uint8(h.NextPayload), h.Major<<4|h.Minor, uint8(h.Exchange), uint8(h.Flags&flagsSent))
	b = binary.BigEndian.AppendUint32(b, h.MessageID)
	return binary.BigEndian.AppendUint32(b, h.Length)
}
