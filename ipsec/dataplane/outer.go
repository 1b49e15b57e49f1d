package dataplane

import "fmt"

// Outer says how an outbound SA in tunnel mode makes the outer header from the
// inner one (RFC 4301, Section 5.1.2). The zero value copies DSCP, ECN and DF.
//
// The receiving side has no choice: the inner DSCP stays as it is, and congestion
// marks are carried over to the inner header (RFC 6040, Section 4.2).
type Outer struct {
	// FixDSCP has every packet carry DSCP, instead of the one of the inner
	// header: for a path that must not see the classes, or has others (RFC 4301,
	// Section 5.1.2.1, note 5; RFC 2983, Section 3).
	FixDSCP bool
	DSCP    uint8 // below 64

	// NoECN marks packets as Not-ECT whatever the inner header says, for a peer
	// that would lose congestion marks (RFC 6040, Section 4.1, compatibility
	// mode).
	NoECN bool

	DF DF
}

// DF is what becomes of the Don't Fragment bit of an outer header of IPv4 (RFC
// 4301, Section 8.1).
type DF uint8

// The three policies. The zero value is DFCopy.
const (
	// DFCopy takes the bit of the inner header; IPv6 counts as set.
	DFCopy DF = iota
	// DFSet: no router fragments. A packet too long for the path whose inner
	// header allows it is fragmented here, behind the encryption (RFC 4301,
	// Section 8.2.1).
	DFSet
	// DFClear lets routers fragment, so that no inner packet is too long.
	DFClear
)

func (d DF) String() string {
	switch d {
	case DFCopy:
		return "copy"
	case DFSet:
		return "set"
	case DFClear:
		return "clear"
	}
	return "unknown"
}

// Validate says what is wrong with o.
func (o Outer) Validate() error {
	switch {
	case o.DSCP > 63:
		return fmt.Errorf("DSCP %d: choose 0 to 63", o.DSCP)
	case o.DSCP != 0 && !o.FixDSCP:
		return fmt.Errorf("DSCP %d is given but not fixed: set FixDSCP too", o.DSCP)
	case o.DF > DFClear:
		return fmt.Errorf("DF policy %d: choose copy, set or clear", o.DF)
	}
	return nil
}
