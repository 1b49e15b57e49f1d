package ident

// Reason is what kind of check failed, for status displays and alerts. The
// peer learns none of it: it gets AUTHENTICATION_FAILED (RFC 7296, Section
// 2.21.2).
type Reason string

// Reasons of an Error.
const (
	ReasonConfiguration Reason = "configuration" // our own credentials are incomplete or contradict each other
	ReasonMethod        Reason = "method"        // the peer proves itself in a way that is not configured
	ReasonIdentity      Reason = "identity"      // the peer is somebody else, or its certificate does not name it
	ReasonCertificate   Reason = "certificate"   // a certificate is missing, malformed, or not made for this use
	ReasonUntrusted     Reason = "untrusted"     // no path to a configured authority
	ReasonExpired       Reason = "expired"       // a certificate is outside its validity period
	ReasonRevoked       Reason = "revoked"       // a certificate was revoked, or that could not be found out
	ReasonAlgorithm     Reason = "algorithm"     // signature or hash algorithm not accepted
	ReasonSignature     Reason = "signature"     // the proof itself is wrong
)

// Error says why authentication failed and what to do about it. It holds no
// secret, but it is for the own side only.
type Error struct {
	Reason Reason
	Detail string
	Remedy string
	Err    error // underlying error, may be nil
}

func (e *Error) Error() string {
	s := e.Cause()
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Cause is Error without the remedy.
func (e *Error) Cause() string {
	if e.Err != nil {
		return e.Detail + ": " + e.Err.Error()
	}
	return e.Detail
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }
