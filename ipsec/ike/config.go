package ike

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// DefaultNATPort is the UDP port of IKE and ESP under NAT traversal (RFC 7296,
// Section 2.23).
const DefaultNATPort = 4500

// Role says who begins the negotiation of a tunnel.
type Role uint8

// The roles. RoleEither begins at both ends; crossing negotiations are resolved
// to one IKE SA. RoleResponder leaves it to the peer, but not for ever: see
// Timing.TakeOver.
const (
	RoleEither Role = iota
	RoleInitiator
	RoleResponder
)

func (r Role) String() string {
	switch r {
	case RoleInitiator:
		return "initiator"
	case RoleResponder:
		return "responder"
	default:
		return "either"
	}
}

// StartAction says when a Child SA is negotiated.
type StartAction uint8

// The start actions. StartNow makes the Child SA with the tunnel and remakes it
// when it is lost; StartOnTraffic waits for the data plane's Acquire.
const (
	StartNow StartAction = iota
	StartOnTraffic
)

// Config describes one tunnel.
type Config struct {
	// Name is the tunnel's name, unique on this host. Required.
	Name string
	Role Role

	// Local is the address and port that IKE leaves from (port 500, or
	// NATPort to use UDP encapsulation from the first message on). Its
	// address should be a real one: NAT detection hashes it (RFC 7296,
	// Section 2.23).
	Local netip.AddrPort
	// Remote is the peer's. An invalid address means any, and then this end
	// can only respond.
	Remote netip.AddrPort
	// Further endpoints of the peer, with ports of their own, that an initiator tries when
	// those of Remote and Mobility.Remote lead nowhere: as behind a NAT it is seen by some
	// only.
	Further []netip.AddrPort
	// Gateways are other places where the same peer can be, by which Peer tells
	// it. It may redirect there, or back to Remote, and nowhere else (RFC 5685).
	Gateways []Gateway
	// RedirectTo is where this end, as a responder, sends its peer, such as when it
	// is about to be shut down; zero: nowhere.
	RedirectTo Gateway
	// NATPort is the UDP port of NAT traversal, DefaultNATPort if zero.
	NATPort uint16
	// ForceEncap makes both ends use UDP encapsulation by sending NAT
	// detection hashes that cannot match.
	ForceEncap bool
	// TCP says when the tunnel goes by TCP.
	TCP TCP
	// Mobility says which other addresses there are, and what becomes of the
	// tunnel when they change.
	Mobility Mobility
	// FragmentSize is the largest IP datagram in octets in which an IKE message
	// is sent, DefaultDatagram if zero. Larger messages are cut into fragments
	// (RFC 7383), into smaller ones of at most 576 octets when there is no answer.
	FragmentSize int

	// PPKs are the post-quantum preshared keys that the ends may have in common
	// (RFC 8784 and RFC 9867), at most 8. An initiator prefers the first one. With
	// PPKRequired a peer that has none of them is refused; otherwise the tunnel
	// does without.
	PPKs        []ident.PPK
	PPKRequired bool

	Credentials ident.Local
	Peer        ident.Remote
	// SharedIdentities says that other tunnels of this host are between the same
	// two identities, so that INITIAL_CONTACT must not be sent for this one.
	SharedIdentities bool
	// EndWithCertificate ends an IKE SA when a certificate expires that the
	// peer has proved itself by. Without it the next authentication notices.
	EndWithCertificate bool
	// Resume makes an IKE SA that was lost anew by a ticket, without key exchange
	// and signatures (RFC 5723), and has peers do so. The new one is rekeyed
	// within ten minutes.
	Resume bool
	// Childless says whether the IKE SA may begin without any of its Children.
	Childless Childless

	// Proposals of the IKE SA in order of preference, suite.DefaultIKE if
	// empty.
	Proposals []suite.IKEProposal
	// Children are the Child SAs of the tunnel, at least one. The first that
	// starts is negotiated in IKE_AUTH.
	Children []ChildConfig
	// InternalRequest asks the peer for internal addresses, InternalOffer gives
	// them to it (RFC 7296, Section 2.19); nil: nothing of the kind.
	InternalRequest *InternalRequest
	InternalOffer   *InternalOffer
	Timing          Timing

	Runtime Runtime
}

// Runtime is what the surroundings of the machine give it. The first three are
// required.
type Runtime struct {
	// Rand gives nonces, private values and jitter. It must be safe for
	// concurrent use, because jobs read it too.
	Rand io.Reader
	// NewSPI returns an IKE SPI that is unique on this host and not zero.
	NewSPI func() wire.SPI
	// AllocateSPI returns the SPI of an inbound Child SA, from the data plane,
	// which is told what it replaces, zero for nothing. It is given back by a
	// dataplane.RemoveSA, also if it was never used.
	AllocateSPI func(replaces uint32) (uint32, error)

	// SinceUDP says how long ago somebody at remote was heard by UDP from this address of
	// the host ([HeardByUDP]), on whatever tunnel; false if that is long ago or never was.
	// Nil: nobody keeps that.
	SinceUDP func(local netip.Addr, remote netip.AddrPort) (time.Duration, bool)

	// Tokens makes the tokens of quick crash detection (RFC 6290). Nil: the
	// peer gets none from this host.
	Tokens *TokenSecret

	// LogKeys has the machine hand out the keys of IKE SAs as [IKEKeys].
	LogKeys bool

	// Tickets seals the tickets by which peers resume their IKE SAs (RFC 5723).
	// Nil: they get none from this host.
	Tickets *TicketKeys
	// Ticket is the State of the last [Ticket] of a tunnel of this name.
	Ticket []byte

	// NonceForTest replaces Rand as the source of nonces, so that a test
	// chooses who wins a collision.
	NonceForTest func() []byte
}

// ChildConfig describes one Child SA of a tunnel.
type ChildConfig struct {
	// Name is unique in the tunnel. Required.
	Name string
	// Proposals in order of preference, suite.DefaultESP if empty. A key
	// exchange method in a proposal asks for perfect forward secrecy when the
	// Child SA is made or rekeyed by CREATE_CHILD_SA (RFC 7296, Section
	// 1.3).
	Proposals []suite.ESPProposal
	// LocalTS and RemoteTS are what the policy protects, at least one each.
	LocalTS, RemoteTS []ts.Selector
	// CarriedLocal and CarriedRemote are what of LocalTS and RemoteTS the policy and the
	// SAs of the data plane take, where that is less than what is negotiated: a peer
	// that routes into its tunnels negotiates all addresses. Both are set, or none.
	CarriedLocal, CarriedRemote []ts.Selector
	Mode                        dataplane.Mode
	// Label, if not empty, is a security label (RFC 9478): the Child SA is for traffic that
	// bears it, which the data plane keeps apart from all other, so that the addresses may
	// be the same. The peer has to have the same one.
	Label string
	// Priority orders the policies of a data plane; lower goes first.
	Priority uint32
	// ReplayWindow is in packets, 0 for the data plane's default.
	ReplayWindow int
	// Outer and TFC say how packets look from outside, in tunnel mode. TFC is not
	// used towards a peer that cannot take it.
	Outer dataplane.Outer
	TFC   dataplane.TFC
	Start StartAction

	// Queues is how many Child SAs share the traffic, at most, so that as many
	// processors carry it (RFC 9611); 0 and 1 are one. It takes a peer that has
	// several too, and a data plane with dataplane.SA.Queue.
	Queues int
	// A further Child SA is for another queue, and of the child with that name.
	queue int
	first string

	// RekeyTime replaces Timing.RekeyChild if not zero. RekeyBytes and
	// RekeyPackets rekey by volume; 0 means no limit.
	RekeyTime    time.Duration
	RekeyBytes   uint64
	RekeyPackets uint64
}

// Timing holds the intervals of a tunnel. A zero field takes the default in
// parentheses; DPD (and Silence with it), Silence, RekeyIKE, RekeyChild, TakeOver and
// PathMTU can be switched off with a negative value.
type Timing struct {
	// RekeyIKE (4 h) and RekeyChild (1 h) are how long an SA is used before it
	// is replaced. Each SA takes off a random part, up to Jitter of it (0.2),
	// so that SAs made together are not rekeyed together. The end that did
	// not make the SA waits for half of OverTime longer (RFC 7296, Section
	// 2.8.1).
	RekeyIKE, RekeyChild time.Duration
	Jitter               float64
	// OverTime (10 % of the rekey time) is how long after that an SA is
	// closed that could not be replaced.
	OverTime time.Duration

	// Reauth (off) is how long the ends believe each other before they have to
	// prove themselves anew (RFC 7296, Section 2.8.3), with Jitter and OverTime
	// as for rekeying: it makes new keys, too. A responder tells the initiator
	// (RFC 4478). At least 30 s.
	Reauth time.Duration

	// DPD (30 s) is how long the peer may be silent, no packet of a Child SA
	// coming either, before it is asked whether it lives; a third of that while
	// packets are sent to it (RFC 7296, Section 2.4).
	DPD time.Duration
	// Silence (5 min) is how long the peer may say nothing by IKE while packets of
	// Child SAs come from it, before it is asked: they do not show that its IKE
	// lives. Negative: for ever.
	Silence time.Duration
	// KeepAlive (20 s) is the interval of NAT keepalives while this end is
	// behind a NAT and sends nothing else (RFC 3948, Section 4).
	KeepAlive time.Duration

	// PathMTU (10 min) is how often longer datagrams are tried than those known to
	// reach the peer, and a fifth of it how often those are tried again, while
	// packets go there (RFC 8899, Section 5.1.1). Negative: nothing is tried, and
	// what the host knows of the path holds.
	PathMTU time.Duration

	// A request of an established IKE SA is repeated after RetransmitBase (1 s),
	// then after intervals that are RetransmitBackoff (1.8) times the last. After
	// RetransmitTries (6) repetitions without an answer the IKE SA is given up:
	// after 75 s. See Schedule.
	RetransmitBase    time.Duration
	RetransmitBackoff float64
	RetransmitTries   int
	// Handshake (0.5 s, 2, 5: given up after 32 s) is the same for requests
	// before the peer is authenticated, and Probe (1 s, 2, 5: after 63 s) for the
	// question whether an established one lives. Base and Tries are never above
	// those of other requests by default.
	Handshake, Probe Schedule

	// Patience (5 min) is how long an end that neither decides about addresses nor
	// may make a new IKE SA itself goes on asking a silent peer that does MOBIKE,
	// so that the peer has time to find a path that works (RFC 4555, Section
	// 3.11). Negative: as without MOBIKE.
	Patience time.Duration

	// A lost or failed tunnel is tried again after a random time up to
	// ReconnectBase (1 s), which doubles with each failure up to ReconnectMax
	// (60 s).
	ReconnectBase, ReconnectMax time.Duration
	// Eager (off) is when the first message of a tunnel that has never been up is
	// repeated, and once more after twice that, before Handshake begins. A refusal then
	// counts one less for ReconnectBase. It is for peers that are both told of a tunnel
	// by somebody else: the responder may hear of it a moment later.
	Eager time.Duration
	// HalfOpen (30 s) is how long a peer may take between IKE_SA_INIT and
	// IKE_AUTH.
	HalfOpen time.Duration
	// TakeOver (30 s) is how long a responder that knows the peer's address
	// waits for it before it begins itself, and a random quarter of that
	// longer; negative: for ever.
	TakeOver time.Duration
}

func (t Timing) withDefaults() Timing {
	durations := []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.RekeyIKE, 4 * time.Hour},
		{&t.RekeyChild, time.Hour},
		{&t.DPD, 30 * time.Second},
		{&t.Silence, 5 * time.Minute},
		{&t.KeepAlive, 20 * time.Second},
		{&t.PathMTU, 10 * time.Minute},
		{&t.RetransmitBase, time.Second},
		{&t.Patience, 5 * time.Minute},
		{&t.ReconnectBase, time.Second},
		{&t.ReconnectMax, time.Minute},
		{&t.HalfOpen, 30 * time.Second},
		{&t.TakeOver, 30 * time.Second},
	}
	for _, d := range durations {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if t.Jitter == 0 {
		t.Jitter = 0.2
	}
	if t.RetransmitBackoff == 0 {
		t.RetransmitBackoff = 1.8
	}
	if t.RetransmitTries == 0 {
		t.RetransmitTries = 6
	}
	base, tries := t.RetransmitBase, t.RetransmitTries
	t.Handshake = t.Handshake.withDefaults(Schedule{min(base, 500*time.Millisecond), 2, min(tries, 5)})
	t.Probe = t.Probe.withDefaults(Schedule{min(base, time.Second), 2, min(tries, 5)})
	return t
}

func (t Timing) validate() error {
	switch {
	case t.Jitter < 0 || t.Jitter > 0.9:
		return fmt.Errorf("timing: jitter %v is not between 0 and 0.9", t.Jitter)
	case min(t.RetransmitBackoff, t.Handshake.Backoff, t.Probe.Backoff) < 1:
		return fmt.Errorf("timing: retransmit backoff %v is below 1 (RFC 7296, Section 2.1 wants growing intervals)", min(t.RetransmitBackoff, t.Handshake.Backoff, t.Probe.Backoff))
	case t.RetransmitBase < 0 || t.ReconnectBase < 0 || t.ReconnectMax < 0 || t.Eager < 0 || t.HalfOpen < 0 || t.OverTime < 0 || t.KeepAlive < 0 || t.Handshake.Base < 0 || t.Probe.Base < 0:
		return errors.New("timing: an interval is negative")
	case min(t.RetransmitTries, t.Handshake.Tries, t.Probe.Tries) < 0:
		return fmt.Errorf("timing: %d retransmit tries", min(t.RetransmitTries, t.Handshake.Tries, t.Probe.Tries))
	case t.Reauth < 0 || t.Reauth > 0 && t.Reauth < minReauth:
		return fmt.Errorf("timing: reauthentication after %s, at least %s are needed, or 0 for never", t.Reauth, minReauth)
	}
	return nil
}

// overTime is the grace between the wish to replace an SA and its end.
func (t Timing) overTime(rekey time.Duration) time.Duration {
	if t.OverTime > 0 {
		return t.OverTime
	}
	return rekey / 10
}

// What most tunnels have, once for all of them. It is not changed.
var (
	usualIKE    = suite.DefaultIKE()
	usualESP    = suite.DefaultESP()
	usualTiming = Timing{}.withDefaults()
)

// maxQueues bounds the Child SAs that share traffic.
const maxQueues = 64

func (c Config) withDefaults() Config {
	if c.NATPort == 0 {
		c.NATPort = DefaultNATPort
	}
	if len(c.Proposals) == 0 {
		c.Proposals = usualIKE
	}
	c.Children = slices.Clone(c.Children)
	for i := range c.Children {
		if len(c.Children[i].Proposals) == 0 {
			c.Children[i].Proposals = usualESP
		}
	}
	c.Children = withQueues(c.Children)
	c.TCP = c.TCP.withDefaults()
	c.Timing = c.Timing.withDefaults()
	return c
}

func (c Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("config: Name is empty")
	case !c.Local.IsValid():
		return fmt.Errorf("tunnel %s: Local has no address", c.Name)
	case !c.Remote.Addr().IsValid() && c.Role == RoleInitiator:
		return fmt.Errorf("tunnel %s: an initiator needs the peer's address in Remote", c.Name)
	case c.Remote.Addr().IsValid() && c.Remote.Port() == 0:
		return fmt.Errorf("tunnel %s: Remote has no port (500 is usual)", c.Name)
	case slices.ContainsFunc(c.Further, func(a netip.AddrPort) bool { return !usable(a.Addr().Unmap()) || a.Port() == 0 }):
		return fmt.Errorf("tunnel %s: one of Further is no endpoint that a peer can have", c.Name)
	case c.FragmentSize != 0 && (c.FragmentSize < leastDatagram || c.FragmentSize > 65535):
		return fmt.Errorf("tunnel %s: FragmentSize is %d octets, must be %d to 65535, or 0 for %d", c.Name, c.FragmentSize, leastDatagram, DefaultDatagram)
	case len(c.Children) == 0:
		return fmt.Errorf("tunnel %s: no Children; at least one is needed", c.Name)
	case c.Runtime.Rand == nil || c.Runtime.NewSPI == nil || c.Runtime.AllocateSPI == nil:
		return fmt.Errorf("tunnel %s: Runtime is incomplete", c.Name)
	}
	if c.InternalRequest != nil && c.Role != RoleInitiator {
		return fmt.Errorf("tunnel %s: internal request: only an initiator is given addresses", c.Name)
	}
	if err := errors.Join(c.Mobility.validate(), c.InternalRequest.validate(), c.InternalOffer.validate(c.Role)); err != nil {
		return fmt.Errorf("tunnel %s: %w", c.Name, err)
	}
	if err := c.TCP.validate(); err != nil {
		return fmt.Errorf("tunnel %s: %w", c.Name, err)
	}
	if err := c.validateParties(); err != nil {
		return fmt.Errorf("tunnel %s: %w", c.Name, err)
	}
	names := make(map[string]bool)
	for _, ch := range c.Children {
		switch {
		case ch.Name == "" || names[ch.Name]:
			return fmt.Errorf("tunnel %s: child name %q is empty or used twice", c.Name, ch.Name)
		case len(ch.LocalTS) == 0 || len(ch.RemoteTS) == 0:
			return fmt.Errorf("tunnel %s: child %s needs local and remote traffic selectors", c.Name, ch.Name)
		}
		if (len(ch.CarriedLocal) == 0) != (len(ch.CarriedRemote) == 0) {
			return fmt.Errorf("tunnel %s: child %s: what is carried is set of one side only", c.Name, ch.Name)
		}
		if err := ch.validateAppearance(); err != nil {
			return fmt.Errorf("tunnel %s: child %s: %w", c.Name, ch.Name, err)
		}
		if err := ch.validateLabel(); err != nil {
			return fmt.Errorf("tunnel %s: child %s: %w", c.Name, ch.Name, err)
		}
		names[ch.Name] = true
		if ch.Queues < 0 || ch.Queues > maxQueues {
			return fmt.Errorf("tunnel %s: child %s: %d queues: choose 0 to %d", c.Name, ch.Name, ch.Queues, maxQueues)
		}
		for i, p := range ch.Proposals {
			if err := p.Validate(); err != nil {
				return fmt.Errorf("tunnel %s: child %s: ESP proposal %d (%s): %w", c.Name, ch.Name, i+1, p, err)
			}
		}
	}
	if err := c.Timing.validate(); err != nil {
		return fmt.Errorf("tunnel %s: %w", c.Name, err)
	}
	return nil
}

// carried is what of the negotiated selectors goes through the data plane.
func (c *ChildConfig) carried(local, remote []ts.Selector) (l, r []ts.Selector) {
	if len(c.CarriedLocal) == 0 {
		return local, remote
	}
	return ts.Narrow(local, c.CarriedLocal), ts.Narrow(remote, c.CarriedRemote)
}

func (c *ChildConfig) validateAppearance() error {
	if c.Mode == dataplane.Transport && (c.Outer != dataplane.Outer{} || c.TFC != dataplane.TFC{}) {
		return errors.New("transport mode has no outer header and hides no traffic: leave Outer and TFC out, or use tunnel mode")
	}
	return errors.Join(c.Outer.Validate(), c.TFC.Validate())
}

// validateParties checks who the ends are and what they may agree on.
func (c Config) validateParties() error {
	if err := c.Credentials.Validate(); err != nil {
		return fmt.Errorf("own credentials: %w", err)
	}
	if err := c.Peer.Validate(); err != nil {
		return fmt.Errorf("peer's credentials: %w", err)
	}
	if err := c.validatePPKs(); err != nil {
		return err
	}
	for i, p := range c.Proposals {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("IKE proposal %d (%s): %w", i+1, p, err)
		}
	}
	return nil
}

func (c *Config) child(name string) *ChildConfig {
	for i := range c.Children {
		if c.Children[i].Name == name {
			return &c.Children[i]
		}
	}
	return nil
}

// rekeyTime is how long a Child SA of ch is used; not positive means for ever.
func (c *Config) rekeyTime(ch *ChildConfig) time.Duration {
	if ch.RekeyTime != 0 {
		return ch.RekeyTime
	}
	return c.Timing.RekeyChild
}
