// Package ipsectest helps to test IPsec code: it renders IKE messages so that
// a scenario reads like the figures of RFC 7296.
//
// It prints names, numbers and lengths, and never key material, nonces or
// authentication data: a transcript can be kept and shown. Its output depends
// on the messages alone, so that it can be compared with a golden file.
//
// It is for tests and diagnostic tools and is not imported by the daemon.
// A Transcript is not safe for concurrent use; the functions are.
//
// Standards:
//   - RFC 7296, Section 1.2: the notation of payloads
package ipsectest
