// Package enroll gets an edge its identity and keeps it fresh.
//
// It owns the edge's side of EnrollmentService: it reads an enrollment token,
// makes certificate requests for keys that package state has stored before,
// authenticates the controller by the token's pin on first contact and by the
// trust anchors of the intent that runs, or else of its certificates, afterwards, checks
// what it is given, and renews the certificates long before they end, or when the
// network's authority is replaced.
// A device whose serial number is registered needs no token; where an operator has
// to approve, it asks until that is decided. If the control key is in a TPM, it shows what
// the TPM says of that, and answers the controller's challenge.
//
// It never sends a private key, never logs or repeats a token, and never gives
// up an identity that works for one that was not checked.
//
// Enroll and a Renewer are used by one goroutine at a time; a Renewer hands a
// new identity over by its Renewed function.
//
// Standards: RFC 2986 (certificate requests), RFC 5280 (certificates), RFC 8410
// (Ed25519 in them), RFC 8446 (TLS 1.3).
package enroll
