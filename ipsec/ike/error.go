package ike

import (
	"errors"
	"fmt"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ErrNoAnswer is in the chain of an Error whose cause is the peer's silence
// (RFC 7296, Section 2.4).
var ErrNoAnswer = errors.New("no answer")

// Kind says in one word what went wrong, for programs and for a person's first
// look.
type Kind uint8

// The kinds.
const (
	KindUnknown        Kind = iota
	KindProposals           // no algorithm or key exchange method in common
	KindSelectors           // no traffic selector in common
	KindAuthentication      // an end did not prove its identity
	KindNoAnswer            // the peer is silent
	KindCookie              // the peer only ever asks for a cookie
	KindBusy                // an end cannot do it now, or has too many SAs
	KindProtocol            // a message that breaks the protocol, or is too much for an end
	KindDataPlane           // the data plane could not hold an SA or a policy
	KindExpired             // past its lifetime and not replaced
	KindConfiguration       // the configuration contradicts itself or the peer's
	KindInternal            // a defect
)

var kindNames = [...]string{
	KindUnknown:        "unknown",
	KindProposals:      "proposals",
	KindSelectors:      "selectors",
	KindAuthentication: "authentication",
	KindNoAnswer:       "no answer",
	KindCookie:         "cookie",
	KindBusy:           "busy",
	KindProtocol:       "protocol",
	KindDataPlane:      "data plane",
	KindExpired:        "expired",
	KindConfiguration:  "configuration",
	KindInternal:       "internal",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Error is a failure of the protocol: what was attempted, where, which end found
// it, why, and what to do about it. Who makes one gives Exchange and what only
// it knows; the machine completes the rest before anybody sees it. It holds no
// secret. It is for the own side: a peer learns the Notify code and no more.
type Error struct {
	// Op is what failed, such as "rekey Child SA"; empty if that is the
	// exchange itself.
	Op string
	// Child is the configured Child SA that it was about, empty if the IKE SA.
	Child string
	// Kind is what went wrong.
	Kind Kind
	// Exchange is where, 0 for what needs no peer, such as the data plane.
	Exchange wire.ExchangeType
	// Payload is the payload that it was about, PayloadNone if the whole
	// message.
	Payload wire.PayloadType
	// Notify is the Notify Message Type that the peer sent or was sent (RFC
	// 7296, Section 3.10.1); 0 if none fits, such as for a timeout.
	Notify wire.NotifyType
	// Remote is true if the peer refused, false if this end did.
	Remote bool
	// Ours and Theirs are what the two ends wanted, as far as it is known: the
	// proposals, the selectors, or the identity and its proof. A peer that
	// refuses does not say what it would have accepted.
	Ours, Theirs []string
	// Remedy is what a person can do.
	Remedy string
	// Err is the cause, nil if the code says everything.
	Err error
}

// Error says what failed and why in one line.
func (e *Error) Error() string {
	s := e.head()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) head() string {
	s := e.Op
	if s == "" {
		s = e.Exchange.String()
	}
	switch {
	case e.Notify != 0 && e.Remote:
		s += fmt.Sprintf(": peer answered %s", e.Notify)
	case e.Notify != 0:
		s += fmt.Sprintf(": %s", e.Notify)
	}
	return s
}

// Cause is Error without the remedies that causes bring along, and with the
// meaning of the peer's code: for a place that shows Ours, Theirs and Remedy on
// their own.
func (e *Error) Cause() string {
	s := e.head()
	if n, ok := notices[e.Notify]; ok && e.Remote {
		s += ": " + n.meaning
	}
	var short interface{ Cause() string }
	switch {
	case e.Err == nil:
	case errors.As(e.Err, &short):
		s += ": " + short.Cause()
	default:
		s += ": " + e.Err.Error()
	}
	return s
}

// Side is the end that found the failure: "us" or "peer".
func (e *Error) Side() string {
	if e.Remote {
		return "peer"
	}
	return "us"
}

// Detail lists everything that is known, one a line, for people.
func (e *Error) Detail() string {
	var b strings.Builder
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-9s %s\n", key+":", value)
		}
	}
	line("what", e.Cause())
	line("kind", e.Kind.String())
	line("side", e.Side())
	if e.Exchange != 0 {
		line("exchange", e.Exchange.String())
	}
	if e.Payload != wire.PayloadNone {
		line("payload", e.Payload.String())
	}
	line("child", e.Child)
	line("ours", strings.Join(e.Ours, " or "))
	line("theirs", strings.Join(e.Theirs, " or "))
	line("remedy", e.Remedy)
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
