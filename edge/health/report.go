package health

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Codes of TunnelError that are not names of RFC 7296 notifications.
const (
	codeLocal    = "LOCAL" // refused or failed at this end
	codeSilent   = "PEER_SILENT"
	codePanic    = "INTERNAL"
	codePlane    = "DATA_PLANE"
	codeExpired  = "EXPIRED"
	codeDeferred = "HOST_NOT_READY"
	codeStranded = "UPLINK_DOWN"
)

// report is the engine's status of a tunnel as a TunnelReport, without the
// times that only the Tracker knows and without counters.
func report(s engine.TunnelStatus) *swanherdv1.TunnelReport {
	r := &swanherdv1.TunnelReport{
		Tunnel:          s.Name,
		State:           state(s),
		LastError:       lastError(s),
		NextAttemptTime: timestamp(s.NextAttempt),
	}
	if path := s.Path; path.Search != "" {
		r.PathMtu = &swanherdv1.PathMtu{Octets: uint32(path.MTU), Limited: path.Limited, Search: path.Search}
	}
	if sa := currentIKE(s.IKE); sa != nil {
		r.LocalEndpoint, r.RemoteEndpoint = endpoint(sa.Local), endpoint(sa.Remote)
		if !sa.Established.IsZero() {
			r.IkeSa = ikeSA(sa)
		}
	}
	for _, c := range s.Children {
		if c.State != "installed" && c.State != "rekeying" {
			continue // on its way in or out
		}
		r.ChildSas = append(r.ChildSas, childSA(c))
	}
	return r
}

func state(s engine.TunnelStatus) swanherdv1.TunnelState {
	switch {
	case s.Panicked != "":
		return swanherdv1.TunnelState_TUNNEL_STATE_FAILED
	case s.State == ike.StateUp:
		return swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED
	case s.State == ike.StatePartial:
		return swanherdv1.TunnelState_TUNNEL_STATE_PARTIAL
	case s.LastError != nil && (s.State == ike.StateDown || s.State == ike.StateConnecting && !s.NextAttempt.IsZero()):
		return swanherdv1.TunnelState_TUNNEL_STATE_FAILED
	case s.State == ike.StateConnecting:
		return swanherdv1.TunnelState_TUNNEL_STATE_CONNECTING
	}
	return swanherdv1.TunnelState_TUNNEL_STATE_IDLE
}

func lastError(s engine.TunnelStatus) *swanherdv1.TunnelError {
	if s.Panicked != "" {
		return &swanherdv1.TunnelError{Code: codePanic, Kind: swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_INTERNAL, Message: "a defect of this agent stopped the tunnel; its traffic is dropped until it is started anew. Please report the agent's log"}
	}
	if sa := currentIKE(s.IKE); sa != nil && sa.Suspect {
		return &swanherdv1.TunnelError{Code: codeSilent, Kind: swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_NO_ANSWER, Message: "the peer leaves requests unanswered; if that lasts it is taken for dead"}
	}
	switch {
	case s.LastError != nil:
		return failure(s.LastError)
	case s.Refused != nil:
		out := failure(s.Refused)
		out.Message = "refused somebody at the peer's address: " + out.GetMessage()
		return out
	}
	return nil
}

func failure(e *ike.Error) *swanherdv1.TunnelError {
	out := &swanherdv1.TunnelError{
		Code: codeLocal, Message: e.Cause(), Remote: e.Remote, Kind: kinds[e.Kind], Child: e.Child,
		Ours: e.Ours, Theirs: e.Theirs, Remedy: e.Remedy,
	}
	if e.Exchange != 0 {
		out.Exchange = e.Exchange.String()
	}
	if e.Payload != wire.PayloadNone {
		out.Payload = e.Payload.String()
	}
	switch {
	case e.Notify != 0:
		out.Notify = e.Notify.String()
		out.Code = out.GetNotify()
	case errors.Is(e, ike.ErrNoAnswer):
		out.Code = codeSilent
	case e.Kind == ike.KindDataPlane:
		out.Code = codePlane
	case e.Kind == ike.KindExpired:
		out.Code = codeExpired
	}
	return out
}

var kinds = map[ike.Kind]swanherdv1.TunnelErrorKind{
	ike.KindProposals:      swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_PROPOSALS,
	ike.KindSelectors:      swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_SELECTORS,
	ike.KindAuthentication: swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_AUTHENTICATION,
	ike.KindNoAnswer:       swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_NO_ANSWER,
	ike.KindCookie:         swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_COOKIE,
	ike.KindBusy:           swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_BUSY,
	ike.KindProtocol:       swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_PROTOCOL,
	ike.KindDataPlane:      swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_DATA_PLANE,
	ike.KindExpired:        swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_EXPIRED,
	ike.KindConfiguration:  swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_CONFIGURATION,
	ike.KindInternal:       swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_INTERNAL,
}

// currentIKE is the IKE SA that a person wants to see: the newest established
// one, else the newest.
func currentIKE(sas []ike.IKEStatus) *ike.IKEStatus {
	var current *ike.IKEStatus
	for i := range sas {
		if current == nil || sas[i].State == "established" || current.State != "established" {
			current = &sas[i]
		}
	}
	return current
}

func ikeSA(sa *ike.IKEStatus) *swanherdv1.IkeSa {
	out := &swanherdv1.IkeSa{
		InitiatorSpi: sa.RemoteSPI.String(), ResponderSpi: sa.LocalSPI.String(),
		Initiator:       sa.Initiator,
		Suite:           sa.Suite.String(),
		EstablishedTime: timestamp(sa.Established),
		RekeyTime:       timestamp(sa.Rekey),
		LocalId:         identity(sa.LocalID), RemoteId: identity(sa.RemoteID), RemoteAuth: sa.RemoteAuth,
		NatLocal: sa.LocalNAT, NatRemote: sa.RemoteNAT, TcpEncapsulated: sa.TCP,
	}
	if sa.Initiator {
		out.InitiatorSpi, out.ResponderSpi = sa.LocalSPI.String(), sa.RemoteSPI.String()
	}
	return out
}

func identity(id ident.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func childSA(c ike.ChildStatus) *swanherdv1.ChildSa {
	return &swanherdv1.ChildSa{
		Name: c.Name, SpiIn: spi(c.InboundSPI), SpiOut: spi(c.OutboundSPI),
		Suite: c.Suite.String(), Mode: "tunnel",
		LocalTs: selectors(c.LocalTS), RemoteTs: selectors(c.RemoteTS),
		EstablishedTime: timestamp(c.Installed), RekeyTime: timestamp(c.Rekey),
	}
}

func spi(v uint32) string { return fmt.Sprintf("%08x", v) }

func selectors(list []ts.Selector) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.String()
	}
	return out
}

func endpoint(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
