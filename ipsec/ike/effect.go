package ike

import (
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Effect is something to be done for the machine: [Send], [KeepAlive],
// [HeardByUDP], [StartJob], [Plane], [AskActivity], [IKEKeys], [Ticket], [RegisterSPI], [UnregisterSPI] or one
// of the events [IKEUp], [IKEDown], [IKESuspect], [IKEMoved], [IKERekeyed], [PathMTU], [ChildUp], [ChildDown], [ChildRekeyed], [Configured],
// [Failed], [Closed]. The order in which Next gives them is the order in which they must
// take place.
type Effect interface{ effect() }

// Send sends the datagrams of one IKE message: one, or its fragments (RFC 7383).
// With NATPort they go through the data plane's NAT traversal socket, with the
// non-ESP marker before each; with TCP in the connection between Local and
// Remote, if it is still there (RFC 9329). A Probe is sent with Don't Fragment and not
// fragmented by this host, whatever that knows of the path; if it is too long for the
// interface, the answer is [TooLong]. Datagrams are not to be changed and may be kept.
type Send struct {
	Local, Remote netip.AddrPort
	Datagrams     [][]byte
	NATPort       bool
	TCP           bool
	Probe         bool
}

// KeepAlive sends a NAT keepalive from the NAT traversal socket (RFC 3948,
// Section 2.3).
type KeepAlive struct{ Local, Remote netip.AddrPort }

// HeardByUDP says that a message came by UDP that is authentic: UDP passes between the
// two. It is for Runtime.SinceUDP of all tunnels, and at most one a second for each of
// those that may go by TCP.
type HeardByUDP struct {
	Local  netip.Addr
	Remote netip.AddrPort
}

// Class orders jobs when there are more than the machine has processors.
type Class uint8

// The classes: work of established peers goes before that of new ones.
const (
	ClassEstablished Class = iota
	ClassHandshake
)

func (c Class) String() string {
	if c == ClassHandshake {
		return "handshake"
	}
	return "established"
}

// StartJob asks for Run to be called, on any goroutine, and its result given
// back as [JobDone].
type StartJob struct {
	Token Token
	Class Class
	Run   func() JobResult
}

// JobResult is the result of a job; only the machine looks into it.
type JobResult struct {
	value any // holds no secret if err is set
	err   error
}

// Destroy zeroes the secrets in r. It is for a result that no machine takes any
// more; a machine destroys those that it cannot use.
func (r JobResult) Destroy() {
	if s, ok := r.value.(interface{ Destroy() }); ok && r.err == nil {
		s.Destroy()
	}
}

// Plane asks for Ops to be applied to the data plane, in order and after all
// operations asked for before, and the outcome given back as [PlaneResult].
type Plane struct {
	Token Token
	Ops   []dataplane.Op
}

// AskActivity asks the data plane when packets last passed, to be answered by
// [Activity]: packets of the peer are a sign of its life. An answer may be a
// second old. It also asks what the host knows of the path to Remote.
type AskActivity struct {
	Token  Token
	Remote netip.Addr
}

// IKEKeys are the keys with which the messages of an IKE SA are protected, for a
// log that helps to find faults. There are none of them without
// Runtime.LogKeys: who has them reads everything.
type IKEKeys struct {
	InitiatorSPI, ResponderSPI wire.SPI
	Suite                      suite.IKESuite
	Ei, Er, Ai, Ar             []byte
}

// RegisterSPI says that messages whose SPI on our side is SPI belong to this
// machine; UnregisterSPI, that they no longer do. When a tunnel adopts a
// [HalfOpen] it registers the SPI again and so takes it over.
type RegisterSPI struct{ SPI wire.SPI }

// UnregisterSPI ends a RegisterSPI.
type UnregisterSPI struct{ SPI wire.SPI }

// IKEUp says that an IKE SA is established and both ends authenticated.
type IKEUp struct{ SA IKEStatus }

// IKEDown says that an established IKE SA is gone, with its Child SAs.
type IKEDown struct {
	SA     IKEStatus
	Reason Reason
}

// IKESuspect says that the peer leaves requests unanswered (SA.Suspect is true)
// or that it is heard again (false). Nothing is torn down: traffic may pass.
type IKESuspect struct{ SA IKEStatus }

// IKEMoved says that an IKE SA and its Child SAs go over another pair of addresses
// from now on; SA has the new ones. Only addresses changed, no SPI and no key.
type IKEMoved struct {
	SA                    IKEStatus
	FromLocal, FromRemote netip.AddrPort
}

// IKERekeyed says that New has replaced Old and taken its Child SAs.
type IKERekeyed struct{ Old, New IKEStatus }

// PathMTU says that another length of IP datagrams was found to reach Remote, in octets
// with the header: the data plane sends no longer ones there from now on. 0: what the
// host knows of the path holds.
type PathMTU struct {
	Local, Remote netip.AddrPort
	MTU           int
}

// ChildUp says that a Child SA carries traffic.
type ChildUp struct{ SA ChildStatus }

// ChildDown says that a Child SA was removed and not replaced.
type ChildDown struct {
	SA     ChildStatus
	Reason Reason
}

// ChildRekeyed says that New has replaced Old.
type ChildRekeyed struct{ Old, New ChildStatus }

// Failed says that something was attempted in vain. Child is empty if the
// attempt was an IKE SA. The tunnel tries again by itself where its role allows.
type Failed struct {
	Child string
	Err   *Error
}

// Closed says that the tunnel has nothing left after [Disconnect].
type Closed struct{}

func (Send) effect()          {}
func (KeepAlive) effect()     {}
func (HeardByUDP) effect()    {}
func (StartJob) effect()      {}
func (Plane) effect()         {}
func (AskActivity) effect()   {}
func (IKEKeys) effect()       {}
func (RegisterSPI) effect()   {}
func (UnregisterSPI) effect() {}
func (IKEUp) effect()         {}
func (IKEDown) effect()       {}
func (IKEMoved) effect()      {}
func (IKERekeyed) effect()    {}
func (IKESuspect) effect()    {}
func (PathMTU) effect()       {}
func (ChildUp) effect()       {}
func (ChildDown) effect()     {}
func (ChildRekeyed) effect()  {}
func (Failed) effect()        {}
func (Closed) effect()        {}

// Reason says why an SA ended.
type Reason uint8

// The reasons.
const (
	ReasonDeletedByUs   Reason = iota + 1 // wanted here, or by policy
	ReasonDeletedByPeer                   // the peer sent a Delete payload
	ReasonPeerDead                        // no answer to repeated requests
	ReasonPeerRestarted                   // INITIAL_CONTACT on another IKE SA
	ReasonExpired                         // past its lifetime and not replaced
	ReasonRedundant                       // crossing negotiations left two
	ReasonProtocol                        // the peer broke the protocol
	ReasonDataPlane                       // the data plane could not hold it
	ReasonIKEClosed                       // its IKE SA ended
	ReasonReconfigured                    // replaced by a new configuration
	ReasonReplaced                        // rekeyed
	ReasonOutOfSync                       // the peer refused for minutes what it should do
	ReasonUntrusted                       // the peer's certificate does not hold any more
	ReasonRedirected                      // the peer went to another gateway
)

var reasonNames = [...]string{
	ReasonDeletedByUs:   "deleted",
	ReasonDeletedByPeer: "deleted by peer",
	ReasonPeerDead:      "peer does not answer",
	ReasonPeerRestarted: "peer restarted",
	ReasonExpired:       "lifetime expired",
	ReasonRedundant:     "redundant",
	ReasonProtocol:      "protocol error",
	ReasonDataPlane:     "data plane failure",
	ReasonIKEClosed:     "IKE SA closed",
	ReasonReconfigured:  "reconfigured",
	ReasonReplaced:      "rekeyed",
	ReasonOutOfSync:     "out of step with peer",
	ReasonUntrusted:     "peer is no longer trusted",
	ReasonRedirected:    "redirected",
}

func (r Reason) String() string {
	if int(r) < len(reasonNames) && r != 0 {
		return reasonNames[r]
	}
	return "unknown"
}
