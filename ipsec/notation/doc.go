// Package notation writes IKE messages down as the figures of RFC 7296 do:
//
//	CREATE_CHILD_SA req 2 {N(REKEY_SA) SA Ni KEi TSi TSr}
//
// The same notation serves the transcript of a running tunnel, the stories of
// the tests, and who compares two peers. It prints names, numbers and
// selectors, and never key exchange data, nonces, cookies or the content of AUTH:
// what it prints can be kept and shown.
//
// Standards:
//   - RFC 7296, Section 1.2: the notation of payloads
package notation
