package ike

import (
	"errors"
	"fmt"
	"strings"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// notice is what an error notification means (RFC 7296, Section 3.10.1, and the
// RFCs that define the others).
type notice struct {
	kind    Kind
	payload wire.PayloadType
	meaning string // from a peer, in plain words
	remedy  string // when the peer refuses with it
}

const (
	remedyPeerDefect = "look into the peer's log: one of the two implementations is wrong; a transcript of the exchange helps to tell which"
	remedyReset      = "none needed: the tunnel is made anew; if it comes back, look into the peer's log"
)

var notices = map[wire.NotifyType]notice{
	wire.NotifyUnsupportedCriticalPayload: {
		KindProtocol, wire.PayloadNone, "it does not know a payload that was marked critical",
		"switch off the extension that the peer does not have, or update the peer",
	},
	wire.NotifyInvalidIKESPI: {
		KindProtocol, wire.PayloadNone, "it does not know the IKE SA; it may have restarted", remedyReset,
	},
	wire.NotifyInvalidMajorVersion: {
		KindProtocol, wire.PayloadNone, "it speaks another version of IKE",
		"configure the peer for IKEv2 (RFC 7296): IKEv1 is not supported",
	},
	wire.NotifyInvalidSyntax: {
		KindProtocol, wire.PayloadNone, "it takes our message for malformed", remedyPeerDefect,
	},
	wire.NotifyInvalidMessageID: {
		KindProtocol, wire.PayloadNone, "our message ID is outside its window", remedyReset,
	},
	wire.NotifyInvalidSPI: {
		KindProtocol, wire.PayloadNone, "it received ESP packets with an SPI that it does not know", remedyReset,
	},
	wire.NotifyNoProposalChosen: {
		KindProposals, wire.PayloadSA, "it accepts none of our proposals",
		"give both ends a proposal in common; the peer does not say what it accepts",
	},
	wire.NotifyInvalidKEPayload: {
		KindProposals, wire.PayloadKE, "it wants another key exchange method than the ones it may have",
		"give both ends a key exchange method in common",
	},
	wire.NotifyAuthenticationFailed: {
		KindAuthentication, wire.PayloadAuth, "it does not believe that we are who we say",
		"compare the identities, keys and trusted authorities of both ends; the reason is in the peer's log alone, as it must not tell us (RFC 7296, Section 2.21.2)",
	},
	wire.NotifySinglePairRequired: {
		KindSelectors, wire.PayloadTSi, "it wants a Child SA for a single pair of addresses",
		"configure the peer to accept selectors of whole networks",
	},
	wire.NotifyNoAdditionalSAs: {
		KindBusy, wire.PayloadNone, "it takes no more Child SAs in this IKE SA",
		"put fewer Child SAs into this tunnel, or allow the peer more",
	},
	wire.NotifyInternalAddressFailure: {
		KindConfiguration, wire.PayloadCP, "it has no inner address for us",
		"enlarge the peer's address pool, or remove the leases that are stale",
	},
	wire.NotifyFailedCPRequired: {
		KindConfiguration, wire.PayloadCP, "it wants us to ask for an inner address",
		"let this end request an address, or configure the peer not to insist",
	},
	wire.NotifyTSUnacceptable: {
		KindSelectors, wire.PayloadTSi, "none of our traffic selectors fits its policy",
		"configure the same selectors at both ends, mirrored: what is local here is remote there",
	},
	wire.NotifyInvalidSelectors: {
		KindSelectors, wire.PayloadTSi, "it received an ESP packet that its selectors do not allow",
		"configure the same selectors at both ends, mirrored",
	},
	wire.NotifyUnacceptableAddresses: {
		KindConfiguration, wire.PayloadNotify, "it does not accept the addresses that we moved to",
		"let the peer accept this end's new addresses",
	},
	wire.NotifyUnexpectedNATDetected: {
		KindConfiguration, wire.PayloadNotify, "it found a NAT where we said that there is none",
		"allow NAT traversal at both ends",
	},
	wire.NotifyTemporaryFailure: {
		KindBusy, wire.PayloadNone, "it cannot do it at the moment",
		"none needed: it is tried again; if it lasts, look into the peer's log",
	},
	wire.NotifyChildSANotFound: {
		KindProtocol, wire.PayloadNotify, "it does not have the Child SA that was to be rekeyed", remedyReset,
	},
	wire.NotifyStateNotFound: {
		KindProtocol, wire.PayloadNone, "it does not have the state that the exchange refers to", remedyReset,
	},
	wire.NotifyTSMaxQueue: {
		KindBusy, wire.PayloadTSi, "it takes no more Child SAs for these selectors",
		"configure fewer parallel Child SAs",
	},
}

// complete fills in what follows from the rest. child is the configured Child
// SA that e is about, empty if none.
func (t *Tunnel) complete(e *Error, child string) {
	if e.Child == "" {
		e.Child = child
	}
	e.complete()
	if e.Remote && e.Ours == nil {
		e.Ours = t.offered(e)
	}
	if e.Kind == KindAuthentication && !e.Remote && e.Ours == nil {
		e.Ours = []string{expectation(t.cfg.Peer)}
	}
}

// mismatch is a cause that knows what the two ends wanted.
type mismatch struct {
	kind         Kind
	payload      wire.PayloadType
	ours, theirs []string
	remedy       string
	text         string
}

func (m *mismatch) Error() string { return m.text }

func modeMismatch(ours, theirs dataplane.Mode, text string) error {
	return &mismatch{
		kind: KindConfiguration, payload: wire.PayloadNotify, ours: []string{ours.String()}, theirs: []string{theirs.String()},
		remedy: "configure the same mode, tunnel or transport, at both ends", text: text,
	}
}

func (e *Error) complete() {
	known := notices[e.Notify]
	var none *suite.NoProposalError
	var m *mismatch
	switch {
	case errors.As(e.Err, &none):
		e.Ours, e.Theirs = none.Accepted, none.Offered
	case errors.As(e.Err, &m):
		e.Kind, e.Remedy = m.kind, m.remedy
		if m.payload != wire.PayloadNone {
			e.Payload = m.payload
		}
		if m.ours != nil || m.theirs != nil {
			e.Ours, e.Theirs = m.ours, m.theirs
		}
	}
	if e.Kind == KindUnknown {
		e.Kind = e.kind()
	}
	if e.Payload == wire.PayloadNone {
		e.Payload = e.payload(known)
	}
	if e.Remedy == "" {
		e.Remedy = e.remedy(known)
	}
}

func (e *Error) kind() Kind {
	var credentials *ident.Error
	var proposals *suite.NoProposalError
	known := notices[e.Notify]
	switch {
	case errors.Is(e.Err, ErrNoAnswer):
		return KindNoAnswer
	case errors.As(e.Err, &credentials) && credentials.Reason == ident.ReasonConfiguration:
		return KindConfiguration
	case errors.As(e.Err, &credentials):
		return KindAuthentication
	case errors.As(e.Err, &proposals):
		return KindProposals
	case known.kind != KindUnknown && (e.Remote || e.Err == nil || known.kind != KindProposals):
		return known.kind
	}
	// Refused by this end: an answer outside the offer, a bad public value.
	return KindProtocol
}

func (e *Error) payload(known notice) wire.PayloadType {
	var credentials *ident.Error
	var critical *wire.UnsupportedCriticalError
	switch {
	case errors.As(e.Err, &critical):
		return critical.Payload
	case errors.As(e.Err, &credentials):
		return credentialsPayload(credentials.Reason)
	case e.Kind == known.kind:
		return known.payload
	case e.Kind == KindProposals:
		return wire.PayloadSA
	case e.Kind == KindSelectors:
		return wire.PayloadTSi
	}
	return wire.PayloadNone
}

// credentialsPayload is the payload that does not prove the identity. Which of
// IDi and IDr it is, only the machine knows.
func credentialsPayload(reason ident.Reason) wire.PayloadType {
	switch reason {
	case ident.ReasonCertificate, ident.ReasonUntrusted, ident.ReasonExpired, ident.ReasonRevoked:
		return wire.PayloadCert
	}
	return wire.PayloadAuth
}

// refusedAuth is the refusal of IKE_AUTH by the peer. It may not say why, so all is
// named that went into the proof.
func (sa *ikeSA) refusedAuth(kind wire.NotifyType) *Error {
	e := &Error{Exchange: wire.ExchangeIKEAuth, Notify: kind, Remote: true}
	if kind == wire.NotifyAuthenticationFailed {
		e.Remedy = notices[kind].remedy + sa.init.alsoPPK() + sa.init.alsoRSA()
	}
	return e
}

// alsoPPK tells to look at a key of RFC 8784 too: with another one of the same
// identifier, a proof looks wrong that is right (Section 3).
func (i *initState) alsoPPK() string {
	if i.ppk == nil || i.ppkUse != ppkAuth {
		return ""
	}
	return fmt.Sprintf("; and give both ends the same value of the %s, which goes into the proof (RFC 8784)", i.ppk)
}

// alsoRSA tells to look at the padding of RSA too: a peer does not say which it
// verifies (RFC 7427, Section 4).
func (i *initState) alsoRSA() string {
	other := ""
	switch {
	case strings.HasPrefix(i.provedBy, "RSASSA-PSS"):
		other = "RSA PKCS #1 v1.5, as peers of before 2017 may want it"
	case strings.HasPrefix(i.provedBy, "RSA PKCS"):
		other = "RSASSA-PSS, which every peer has to verify (RFC 8247, Section 3.2)"
	default:
		return ""
	}
	return fmt.Sprintf("; this end signed by %s: if the peer cannot verify that, let it sign by %s", i.provedBy, other)
}

func (e *Error) remedy(known notice) string {
	var credentials *ident.Error
	switch {
	case errors.As(e.Err, &credentials) && credentials.Remedy != "":
		return credentials.Remedy
	case e.Remote && known.remedy != "":
		return known.remedy
	}
	switch e.Kind {
	case KindProposals:
		return "add one of the peer's proposals to ours, or one of ours to the peer's"
	case KindSelectors:
		return "configure the same selectors at both ends, mirrored: what is local here is remote there"
	case KindAuthentication:
		return "compare the identities and keys of both ends"
	case KindNoAnswer:
		return silenceRemedy(e.Exchange)
	case KindCookie:
		return "the peer is under load, or something on the path answers in its place; look at the peer"
	case KindBusy:
		return "none needed: the peer tries again; if it lasts, look at the load of this host"
	case KindDataPlane:
		return "look into the log of this host: its data plane refused"
	case KindExpired:
		return "none needed: the tunnel is made anew; look for the failure that kept it from being rekeyed"
	case KindConfiguration:
		return "correct the configuration"
	case KindInternal:
		return "report this as a defect, with the log"
	}
	return remedyPeerDefect
}

// silenceRemedy tells where to look: which exchange the peer is silent to says
// how far the packets come.
func silenceRemedy(x wire.ExchangeType) string {
	switch x {
	case wire.ExchangeIKESAInit:
		return "check the peer's address, that it runs and knows this end, and that UDP ports 500 and 4500 are open on the way"
	case wire.ExchangeIKEAuth, wire.ExchangeIKEIntermediate:
		return "the first exchange came through: check that UDP port 4500 and large or fragmented packets do as well, and the peer's log"
	}
	return "none needed: the tunnel is made anew; if it comes back, check the path and the peer"
}

// offered is what this end put into the exchange that the peer refused.
func (t *Tunnel) offered(e *Error) []string {
	cfg := t.cfg.child(e.Child)
	switch {
	case e.Kind == KindProposals && cfg == nil:
		return texts(t.cfg.Proposals)
	case e.Kind == KindProposals && e.Exchange == wire.ExchangeIKEAuth:
		return texts(suite.WithoutKeyExchange(cfg.Proposals))
	case e.Kind == KindProposals:
		return texts(cfg.Proposals)
	case e.Kind == KindSelectors && cfg != nil:
		return []string{selectorText(cfg.LocalTS, cfg.RemoteTS)}
	case e.Kind == KindAuthentication:
		return []string{t.cfg.Credentials.String()}
	}
	return nil
}

func texts[P fmt.Stringer](list []P) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return out
}

// selectorText is a pair of selector lists, this end's first.
func selectorText(local, remote []ts.Selector) string { return fmt.Sprintf("%v to %v", local, remote) }

// selectorTexts are the pairs that this end is configured for, only that of old
// if it is not nil.
func (t *Tunnel) selectorTexts(old *childSA) []string {
	var out []string
	for _, cfg := range t.cfg.Children {
		if old == nil || old.name == cfg.Name {
			out = append(out, selectorText(cfg.LocalTS, cfg.RemoteTS))
		}
	}
	return out
}

// expectation says whom this end lets in and by which proof.
func expectation(r ident.Remote) string {
	who := "anybody"
	if !r.ID.IsZero() {
		who = r.ID.String()
	}
	return who + " with " + r.Proofs()
}

// String says who the peer claims to be and by which method it proves that.
func (c claim) String() string { return fmt.Sprintf("%s by %s", c.ID, c.Method) }
