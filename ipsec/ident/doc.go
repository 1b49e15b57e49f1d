// Package ident proves and checks who a peer of an IKE SA is: identities, the
// AUTH payload, certificate paths, pre-shared keys.
//
// It owns the rule that nothing is sent or accepted beyond what is configured:
// a peer with a certificate cannot fall back to a pre-shared key or the
// reverse, the identity must be the expected one, and it must be bound to the
// key that proves it. It fetches nothing, reads no clock (the time is an
// argument) and keeps no state between calls.
//
// Errors say which check failed and what to do about it. They never hold key
// octets, and pre-shared keys print as a placeholder.
//
// Concurrency: all functions may be called from several goroutines at once, as
// long as the Signer and CheckRevoked of the caller allow it. Credentials and
// Roots are not changed after they were made.
//
// Standards:
//
//   - RFC 7296, Sections 2.15, 3.5, 3.6 and 3.7: AUTH, identities,
//     certificates, certificate requests
//   - RFC 7427: Digital Signature method and SIGNATURE_HASH_ALGORITHMS
//   - RFC 8420: Ed25519; RFC 5480, RFC 4055: ECDSA and RSA identifiers
//   - RFC 8247, Section 3: which of them, how long RSA keys are, PSS before
//     PKCS #1 v1.5
//   - RFC 9593: SUPPORTED_AUTH_METHODS
//   - RFC 4754 and RFC 7296, Section 2.15: the older methods that fix the hash
//     (ECDSA, RSA with SHA-1), only where a tunnel allows them and never with a
//     peer that supports RFC 7427
//   - RFC 4945, Sections 3.1 and 5.1.3: identities in certificates, key usage
//   - RFC 5280: path validation (crypto/x509), CRLs, comparison of names
//   - RFC 6960: OCSP responses
//   - RFC 4514: text form of distinguished names
//
// Left out on purpose: EAP, NULL authentication, identities in certificates by
// wildcard or common name, and revocation information that peers send (RFC
// 4806): what is revoked is told by who runs this end, see [Revocations].
package ident
