package wire

import "fmt"

// ParsePayloads reads the payload chain b whose first payload is of the given
// type: the decrypted content of an Encrypted payload. It fails with a
// *ParseError or an *UnsupportedCriticalError. An Encrypted payload is not
// allowed in there (RFC 7296, Section 3.1). The payloads alias b.
func ParsePayloads(first PayloadType, b []byte) ([]Payload, error) {
	r := reader{b: b}
	if len(b) > MaxMessageLen {
		r.fail("%d octets exceed the limit of %d", len(b), MaxMessageLen)
		return nil, r.err
	}
	return parseChain(&r, first, false)
}

// parseChain reads payloads until the chain ends and demands that the input
// ends there too.
func parseChain(r *reader, next PayloadType, outer bool) ([]Payload, error) {
	var payloads []Payload
	var seen [256]uint8
	for next != PayloadNone {
		t := next
		r.payload = t
		if len(payloads) == MaxPayloads {
			r.fail("more than %d payloads", MaxPayloads)
			return nil, r.err
		}
		if seen[t]++; int(seen[t]) > payloadLimit(t) {
			r.fail("more than %d payloads of this type", payloadLimit(t))
			return nil, r.err
		}
		encrypted := t == PayloadSK || t == PayloadSKF
		if encrypted && !outer {
			r.fail("an encrypted payload inside an encrypted payload")
			return nil, r.err
		}
		p, following, err := parsePayload(r, t)
		if err != nil {
			return nil, err
		}
		if payloads == nil {
			payloads = make([]Payload, 0, 8)
		}
		payloads = append(payloads, p)
		next = following
		if encrypted {
			next = PayloadNone // it names its first inner payload and is the last one
		}
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return payloads, nil
}

// parsePayload reads one payload with its generic header.
func parsePayload(r *reader, t PayloadType) (Payload, PayloadType, error) {
	start := r.off
	next := PayloadType(r.u8())
	critical := r.u8()&criticalBit != 0
	length := int(r.u16())
	if r.err == nil && length < genericHeaderLen {
		r.fail("payload length %d is shorter than its header", length)
	}
	body := r.sub(length - genericHeaderLen)
	if !r.take(&body) {
		return nil, 0, r.err
	}
	p, err := parseBody(t, next, critical, &body)
	if err != nil {
		return nil, 0, err
	}
	if err := p.check(); err != nil {
		return nil, 0, &ParseError{Payload: t, Offset: start, Reason: err.Error()}
	}
	return p, next, nil
}

// AppendPayloads appends the chain of ps to b and returns the type of its
// first payload: what goes into an Encrypted payload. It fails if a payload
// breaks a rule of its format or a limit of this package, and if one of them
// is an Encrypted payload.
func AppendPayloads(b []byte, ps []Payload) (first PayloadType, out []byte, err error) {
	if err := checkChain(ps, false); err != nil {
		return PayloadNone, nil, err
	}
	return firstType(ps), appendChain(b, ps), nil
}

func firstType(ps []Payload) PayloadType {
	if len(ps) == 0 {
		return PayloadNone
	}
	return ps[0].PayloadType()
}

// checkChain holds the rules on a chain that is to be sent.
func checkChain(ps []Payload, outer bool) error {
	if len(ps) > MaxPayloads {
		return fmt.Errorf("append payloads: %d exceed the limit of %d", len(ps), MaxPayloads)
	}
	var seen [256]uint8
	for i, p := range ps {
		t := p.PayloadType()
		if seen[t]++; int(seen[t]) > payloadLimit(t) {
			return fmt.Errorf("append %s payload: more than %d of this type", t, payloadLimit(t))
		}
		if t == PayloadSK || t == PayloadSKF {
			if !outer {
				return fmt.Errorf("append %s payload: it cannot be inside an encrypted payload", t)
			}
			if i != len(ps)-1 {
				return fmt.Errorf("append %s payload: it must be the last one", t)
			}
		}
		if err := p.check(); err != nil {
			return fmt.Errorf("append %s payload: %w", t, err)
		}
		if n := genericHeaderLen + p.size(); n > maxPayloadLen {
			return fmt.Errorf("append %s payload: %d octets exceed the limit of %d", t, n, maxPayloadLen)
		}
	}
	if n := chainSize(ps); n > MaxMessageLen {
		return fmt.Errorf("append payloads: %d octets exceed the limit of %d", n, MaxMessageLen)
	}
	return nil
}

func chainSize(ps []Payload) int {
	n := 0
	for _, p := range ps {
		n += genericHeaderLen + p.size()
	}
	return n
}

// appendChain writes a checked chain.
func appendChain(b []byte, ps []Payload) []byte {
	for i, p := range ps {
		next := PayloadNone
		critical := false
		switch p := p.(type) {
		case *Encrypted:
			next = p.FirstInner
		case *EncryptedFragment:
			next = p.FirstInner
		case *Unknown:
			critical = p.Critical
		}
		if i+1 < len(ps) {
			next = ps[i+1].PayloadType()
		}
		b = appendGenericHeader(b, next, critical, p.size())
		b = p.appendTo(b)
	}
	return b
}
