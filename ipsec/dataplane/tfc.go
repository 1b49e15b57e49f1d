package dataplane

import (
	"errors"
	"fmt"
	"time"
)

// TFC hides how long and how frequent the packets of an outbound SA in tunnel mode
// are (traffic flow confidentiality, RFC 4303, Sections 2.6 and 2.7). The zero
// value hides nothing. It must not be used towards a peer that has sent
// ESP_TFC_PADDING_NOT_SUPPORTED (RFC 7296, Section 1.3.1), and costs what is padded.
type TFC struct {
	// PadTo is the length in octets to which shorter inner packets are padded, or
	// PadToPath. Longer ones stay as they are, and nothing is padded beyond what
	// passes the path in one piece.
	PadTo int

	// Fill has a dummy packet sent whenever nothing was for that long, at least
	// a millisecond; 0 is never. Dummy packets are as long as padded ones, or of
	// random length if none are.
	Fill time.Duration
}

// PadToPath pads every packet to the longest that passes the path in one piece.
const PadToPath = -1

const (
	leastFill = time.Millisecond
	mostPadTo = 65535
)

// Validate says what is wrong with t.
func (t TFC) Validate() error {
	switch {
	case t.PadTo < PadToPath || t.PadTo > mostPadTo:
		return fmt.Errorf("padding to %d octets: choose 1 to %d, 0 for none or %d for the path MTU", t.PadTo, mostPadTo, PadToPath)
	case t.Fill != 0 && t.Fill < leastFill:
		return fmt.Errorf("dummy packets every %s: choose %s or longer, or 0 for none", t.Fill, leastFill)
	}
	return nil
}

// ValidateFor also says whether an SA of this direction and mode can have t.
func (t TFC) ValidateFor(sa *SA) error {
	switch {
	case t == TFC{}:
		return nil
	case sa.Direction != Outbound:
		return errors.New("only outbound SAs can hide their traffic")
	case sa.Mode != Tunnel || sa.Suite.AH:
		return errors.New("only ESP in tunnel mode can hide its traffic")
	}
	return t.Validate()
}
