// Package wire is the IKEv2 message codec: the IKE header, the payload chain
// and every payload of RFC 7296, Section 3, and RFC 7383, Section 2.5.
//
// It owns the octets and nothing else. It holds no keys, keeps no state, logs
// nothing and decides no policy: the Encrypted payload is opaque here, and
// whether a well-formed payload belongs into an exchange is for the caller.
//
// Parsing is strict and bounded. Every length is checked before it is used,
// trailing octets are an error, nothing is allocated by a length or a count
// that a peer merely claims, and the limits of limits.go hold for every
// message. Reserved bits are ignored on receipt and sent as zero. Output is
// canonical: appending a parsed message and parsing it again gives the same
// octets. Rules on the content of a payload live in its check method, which
// both directions call, so that whatever can be appended can be parsed.
//
// Parsed payloads alias the input. The caller must not change the input while
// it uses them; Message.Raw is the input itself.
//
// Concurrency: values are plain data without locks. Concurrent reads are safe,
// and so is appending the same value from several goroutines.
//
// Standards:
//   - RFC 7296, Sections 2.5 and 3: header, payloads, critical bit
//   - RFC 7383, Section 2.5: Encrypted Fragment payload
//   - RFC 5282, Section 3: Encrypted payload with authenticated encryption
//   - RFC 7427, RFC 8420: Digital Signature authentication numbers
//   - RFC 9370: additional key exchange numbers
//   - IANA "Internet Key Exchange Version 2 (IKEv2) Parameters"
package wire
