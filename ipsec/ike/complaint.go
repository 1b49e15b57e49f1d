package ike

import (
	"io"
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// What is said about SAs that one end does not have. INVALID_SPI, in whatever way
// it comes, changes no SA: at the most it causes a liveness check, and that is
// answered with the proof of RFC 6290 if the peer has begun anew (RFC 7296,
// Sections 1.5 and 2.21.4).

// MaxComplaintLen bounds a message outside of any IKE SA, in octets: there is a
// notification in it and maybe four tokens (RFC 6290, Section 8.2).
const MaxComplaintLen = 1024

// Complaint is a message in the clear that belongs to no IKE SA and came from
// the peer's address. It is not answered.
type Complaint struct{ Data []byte }

// UnknownSPI says that an ESP packet came from Remote for an SPI that no inbound
// SA has. If there is an IKE SA with Remote, the peer is told over it.
type UnknownSPI struct {
	Remote netip.AddrPort
	SPI    uint32
}

func (Complaint) input()  {}
func (UnknownSPI) input() {}

// InvalidSPI returns the message that tells the sender of an ESP packet that
// there is no such SA, for a peer with which there is no IKE SA (RFC 7296,
// Section 1.5). The IKE SPIs in it are random and mean nothing.
func InvalidSPI(spi uint32, rand io.Reader) ([]byte, error) {
	m := wire.Message{
		Header:   wire.Header{Major: 2, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator},
		Payloads: []wire.Payload{&wire.Notify{Kind: wire.NotifyInvalidSPI, Data: put32(spi)}},
	}
	for _, s := range []*wire.SPI{&m.InitiatorSPI, &m.ResponderSPI} {
		if _, err := io.ReadFull(rand, s[:]); err != nil {
			return nil, err
		}
		s[7] |= 1 // not zero
	}
	return m.Append(nil)
}

// AnswerVersion returns what to answer a request of a later major version than
// ours: INVALID_MAJOR_VERSION in the clear, whose header has the one we speak
// (RFC 7296, Sections 1.5 and 2.5). It returns nil if there must be no answer.
// The caller limits the rate.
func AnswerVersion(request []byte) []byte {
	h, err := wire.ParseHeader(request)
	if err != nil || h.Major <= 2 || h.IsResponse() || h.InitiatorSPI.IsZero() {
		return nil
	}
	answer := wire.Message{
		Header: wire.Header{
			InitiatorSPI: h.InitiatorSPI, ResponderSPI: h.ResponderSPI, Major: 2,
			Exchange: h.Exchange, MessageID: h.MessageID, Flags: wire.FlagResponse | (h.Flags&wire.FlagInitiator ^ wire.FlagInitiator),
		},
		Payloads: []wire.Payload{&wire.Notify{Kind: wire.NotifyInvalidMajorVersion}},
	}
	b, err := answer.Append(nil)
	if err != nil || len(b) > len(request) {
		return nil // no way to have us send more than we get
	}
	return b
}

// complaint looks for an SA of this tunnel that the sender says it does not
// have. Anybody could have sent it, unless there is a token in it (RFC 6290,
// Section 8.2).
func (t *Tunnel) complaint(c Complaint) {
	t.stats.Received++
	h, err := wire.ParseHeader(c.Data)
	if err != nil || h.Major != 2 || h.IsResponse() || h.Exchange != wire.ExchangeInformational || int(h.Length) != len(c.Data) {
		t.stats.Malformed++
		return
	}
	payloads, err := wire.ParsePayloads(h.NextPayload, c.Data[wire.HeaderLen:])
	if err != nil {
		t.stats.Malformed++
		return
	}
	m := &message{payloads: payloads}
	n := m.notify(wire.NotifyInvalidSPI)
	if n == nil || len(n.Data) != 4 {
		t.stats.UnknownSPI++
		return
	}
	child := t.childBySPI(be32(n.Data), dataplane.Outbound)
	switch {
	case child == nil:
		t.stats.UnknownSPI++
	case child.ike.state.in(stateUsable) && child.ike.provesLoss(m):
		child.ike.lost()
	default:
		child.ike.hint()
	}
}

// unknownSPI notes that the peer is to be told of an SA that this end does not
// have, at most every few seconds: who sent the packet is not authenticated.
func (t *Tunnel) unknownSPI(u UnknownSPI) {
	sa := t.primary()
	if sa == nil || sa.remote.Addr() != u.Remote.Addr() || t.childBySPI(u.SPI, dataplane.Inbound) != nil || t.now.Before(sa.tellAt) {
		return
	}
	sa.tellAt = t.now.Add(hintInterval)
	sa.strange = u.SPI
}

// tellTask tells the peer of an SPI that this end does not have (RFC 7296,
// Section 2.21.4).
type tellTask struct{ sa *ikeSA }

func (k *tellTask) start() {
	sa := k.sa
	spi := sa.strange
	sa.strange = 0
	sa.ask(wire.ExchangeInformational, []wire.Payload{&wire.Notify{Kind: wire.NotifyInvalidSPI, Data: put32(spi)}},
		func(*message) { sa.finish() })
}

func (k *tellTask) abandon() {}
