package ike

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// message is a received message with its payloads in the clear.
type message struct {
	wire.Header
	route
	raw      []byte
	payloads []wire.Payload
	covered  []byte // what AUTH covers of an IKE_INTERMEDIATE message
	opened          // of an encrypted message
}

// find returns the first payload of type P, or its zero value.
func find[P wire.Payload](m *message) P {
	for _, p := range m.payloads {
		if found, ok := p.(P); ok {
			return found
		}
	}
	var none P
	return none
}

// notify returns the first notification of that kind, or nil.
func (m *message) notify(kind wire.NotifyType) *wire.Notify {
	for _, p := range m.payloads {
		if n, ok := p.(*wire.Notify); ok && n.Kind == kind {
			return n
		}
	}
	return nil
}

// errorNotify returns the first notification of an error, or nil.
func (m *message) errorNotify() *wire.Notify {
	for _, p := range m.payloads {
		if n, ok := p.(*wire.Notify); ok && n.Kind.IsError() {
			return n
		}
	}
	return nil
}

// contradiction returns an error if a response that grants an SA has an error
// notification of an unknown type: the request has failed entirely then (RFC 7296,
// Section 3.10.1). The known ones are about other things.
func (m *message) contradiction() error {
	for _, p := range m.payloads {
		if n, ok := p.(*wire.Notify); ok && n.Kind.IsError() {
			if _, known := notices[n.Kind]; !known {
				return fmt.Errorf("the answer grants the SA and has the unknown error %s", n.Kind)
			}
		}
	}
	return nil
}

// id returns IDi or IDr.
func (m *message) id(initiator bool) *wire.ID {
	for _, p := range m.payloads {
		if id, ok := p.(*wire.ID); ok && id.Initiator == initiator {
			return id
		}
	}
	return nil
}

// selectors returns the contents of TSi or TSr.
func (m *message) selectors(initiator bool) []wire.TrafficSelector {
	for _, p := range m.payloads {
		if t, ok := p.(*wire.TS); ok && t.Initiator == initiator {
			return t.Selectors
		}
	}
	return nil
}

// all returns the notifications of that kind.
func (m *message) all(kind wire.NotifyType) []*wire.Notify {
	var out []*wire.Notify
	for _, p := range m.payloads {
		if n, ok := p.(*wire.Notify); ok && n.Kind == kind {
			out = append(out, n)
		}
	}
	return out
}
