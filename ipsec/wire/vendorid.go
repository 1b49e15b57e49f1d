package wire

// VendorID is the Vendor ID payload (RFC 7296, Section 3.12).
type VendorID struct {
	Data []byte
}

// PayloadType implements Payload.
func (*VendorID) PayloadType() PayloadType { return PayloadVendorID }

// check demands nothing: unfamiliar vendors are ignored.
func (p *VendorID) check() error { return nil }

func (p *VendorID) size() int { return len(p.Data) }

func (p *VendorID) appendTo(b []byte) []byte { return append(b, p.Data...) }
