package ike

import (
	"errors"
	"fmt"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ErrNoAnswer is in the chain of an Error whose cause is the peer's silence
// (RFC 7296, Section 2.4).
var ErrNoAnswer = errors.New("no answer")

// Error is a failure of the protocol: what was attempted, the Notify Message
// Type that says why (RFC 7296, Section 3.10.1; 0 if none fits, such as for a
// timeout), and which end found it.
type Error struct {
	// Op is what failed, such as "IKE_AUTH" or "rekey Child SA".
	Op string
	// Notify is the code that the peer sent or was sent.
	Notify wire.NotifyType
	// Remote is true if the peer refused, false if this end did.
	Remote bool
	// Err is the cause, nil if the code says everything.
	Err error
}

func (e *Error) Error() string {
	s := e.Op
	switch {
	case e.Notify != 0 && e.Remote:
		s += fmt.Sprintf(": peer answered %s", e.Notify)
	case e.Notify != 0:
		s += fmt.Sprintf(": %s", e.Notify)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
