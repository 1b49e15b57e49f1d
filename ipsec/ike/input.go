package ike

import (
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// Input is something that happened: [Datagram], [JobDone], [PlaneResult],
// [PlaneEvent], [Activity], [AddressChange], [Unreachable], [Reachable], [TooLong], [Connect], [Disconnect], [Reconfigure], [RekeyChild],
// [RekeyIKE], [Reauthenticate], [Revalidate], [Complaint], [UnknownSPI], [Tick].
type Input interface{ input() }

// Datagram is an IKE message from the network, without the non-ESP marker
// (RFC 3948, Section 2.2). The machine does not keep Data.
type Datagram struct {
	Local, Remote netip.AddrPort
	TCP           bool // in the connection between them (RFC 9329)
	Data          []byte
}

func (d Datagram) route() route { return route{d.Local, d.Remote, d.TCP} }

// Token ties the answer to the effect that asked for it. An answer with a token
// that is no longer waited for is ignored.
type Token uint64

// JobDone answers a [StartJob] with what its Run returned.
type JobDone struct {
	Token  Token
	Result JobResult
}

// PlaneResult answers a [Plane] with what dataplane.Plane.Apply returned: one
// error or nil for each operation.
type PlaneResult struct {
	Token Token
	Errs  []error
}

// PlaneEvent is an event of the data plane that names this tunnel.
type PlaneEvent struct{ Event dataplane.Event }

// Activity answers an [AskActivity]: when a packet last passed on any Child SA
// of the tunnel, in each direction, and zero for never. PathMTU is the longest IP
// datagram in octets that the host would send to the address asked about whole, 0 if
// it does not know.
type Activity struct {
	Token             Token
	Inbound, Outbound time.Time
	PathMTU           int
}

// AddressChange says which addresses the host has now: Local is the one to leave
// from, Additional are others. The IKE SA and its Child SAs move by MOBIKE (RFC
// 4555) if the peer does that, otherwise a new IKE SA is made from there before the
// old one is deleted.
type AddressChange struct {
	Local      netip.Addr
	Additional []netip.Addr
}

// Unreachable says that datagrams to Remote do not arrive, as far as the host or
// the network knows. Anybody can forge that, so it only makes the machine ask the
// peer (RFC 7296, Section 2.4), and with MOBIKE try other paths.
type Unreachable struct{ Remote netip.AddrPort }

// Reachable says that the host has a way to the peer again after it had none, as when an
// uplink comes back: what waits for an answer or for its time is sent now, and the peer is
// asked whether it is still there.
type Reachable struct{}

// TooLong says that the host refused to send a probe to Remote: it is too long for the
// interface.
type TooLong struct{ Remote netip.AddrPort }

// Connect says that the tunnel is wanted: its policies are set, an initiator
// begins, a responder accepts. Again is harmless.
type Connect struct{}

// Disconnect says that the tunnel is not wanted: its SAs are deleted with the
// peer's knowledge, its policies removed. The event [Closed] ends it.
type Disconnect struct{}

// Reconfigure replaces the configuration. Only what is changed is touched:
// intervals apply in place; children come and go one by one; new identities,
// addresses or credentials make a new IKE SA before the old one is deleted.
// Name and Runtime cannot change.
type Reconfigure struct{ Config Config }

// RekeyChild rekeys the Child SAs of that name now; empty means all.
type RekeyChild struct{ Child string }

// RekeyIKE rekeys the IKE SA now.
type RekeyIKE struct{}

// Reauthenticate has the two ends authenticate each other anew now: a new IKE SA
// takes over from the one that is there (RFC 7296, Section 2.8.3). An end that is
// not to begin asks the peer to (RFC 4478).
type Reauthenticate struct{}

// Restart deletes all IKE SAs with the peer's knowledge and connects anew, from nothing:
// for when what is there looks well and carries nothing. The policies stay, so that
// packets wait or are dropped meanwhile, and never go in clear.
type Restart struct{}

// Revalidate has the certificates of the peer verified again, because what is
// revoked may have changed. An IKE SA whose peer would no longer be let in ends.
type Revalidate struct{}

// Tick says that the deadline has come. Early or spurious ones are harmless.
type Tick struct{}

func (Datagram) input()       {}
func (JobDone) input()        {}
func (PlaneResult) input()    {}
func (PlaneEvent) input()     {}
func (Activity) input()       {}
func (AddressChange) input()  {}
func (Unreachable) input()    {}
func (Reachable) input()      {}
func (TooLong) input()        {}
func (Connect) input()        {}
func (Disconnect) input()     {}
func (Reconfigure) input()    {}
func (RekeyChild) input()     {}
func (RekeyIKE) input()       {}
func (Reauthenticate) input() {}
func (Restart) input()        {}
func (Revalidate) input()     {}
func (Tick) input()           {}
