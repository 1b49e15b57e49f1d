package ts

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ToWire returns the payload for a list: TSi for the initiator's side of the
// exchange, else TSr. Appending it fails if the list is empty, longer than
// MaxSelectors or not valid.
func ToWire(initiator bool, set []Selector) *wire.TS {
	p := &wire.TS{Initiator: initiator, Selectors: make([]wire.TrafficSelector, len(set))}
	for i, s := range set {
		kind := wire.TSIPv6Range
		if s.First.Is4() {
			kind = wire.TSIPv4Range
		}
		p.Selectors[i] = wire.TrafficSelector{
			Kind: kind, IPProtocol: s.Protocol, StartPort: s.StartPort, EndPort: s.EndPort,
			First: s.First, Last: s.Last,
		}
	}
	return p
}

// FromWire returns the selectors of a payload. Those of a type that is not
// understood are left out (RFC 7296, Section 2.9), so that the result may be
// empty. A selector that makes no sense is an error.
func FromWire(p *wire.TS) ([]Selector, error) {
	set := make([]Selector, 0, len(p.Selectors))
	for i, w := range p.Selectors {
		if w.Kind != wire.TSIPv4Range && w.Kind != wire.TSIPv6Range {
			continue
		}
		s := Selector{
			Protocol: w.IPProtocol, StartPort: w.StartPort, EndPort: w.EndPort,
			First: w.First, Last: w.Last,
		}
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("%s payload, selector %d: %w", p.PayloadType(), i+1, err)
		}
		set = append(set, s)
	}
	return set, nil
}
