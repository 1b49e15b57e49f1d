package wire

// SA is the Security Association payload: the proposals, most preferred
// first, or the one proposal that was accepted (RFC 7296, Section 3.3).
type SA struct {
	Proposals []Proposal
}

// PayloadType implements Payload.
func (*SA) PayloadType() PayloadType { return PayloadSA }

func parseSA(r *reader) *SA {
	p := &SA{}
	for more := true; more && r.err == nil; {
		var proposal Proposal
		proposal, more = parseProposal(r)
		p.Proposals = append(p.Proposals, proposal)
	}
	return p
}

func (p *SA) check() error {
	if len(p.Proposals) == 0 {
		return invalid("no proposal")
	}
	for i := range p.Proposals {
		q := &p.Proposals[i]
		// RFC 7296, Section 3.3.1. The first number is 1 in an offer and the
		// accepted one in an answer, which only the caller can tell apart.
		if i > 0 && int(q.Number) != int(p.Proposals[i-1].Number)+1 {
			return invalidf("proposal number %d after %d, want one more", q.Number, p.Proposals[i-1].Number)
		}
		if err := q.check(); err != nil {
			return invalidf("proposal %d: %v", q.Number, err)
		}
	}
	return nil
}

func (p *SA) size() int {
	n := 0
	for i := range p.Proposals {
		n += p.Proposals[i].size()
	}
	return n
}

func (p *SA) appendTo(b []byte) []byte {
	for i := range p.Proposals {
		b = p.Proposals[i].appendTo(b, i+1 < len(p.Proposals))
	}
	return b
}
