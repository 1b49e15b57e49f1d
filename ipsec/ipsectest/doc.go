// Package ipsectest helps to test IPsec code: it dumps IKE messages, and
// collects what happens in a scenario so that it reads like the figures of RFC
// 7296 (see package notation).
//
// It prints names, numbers and lengths, and never key material, nonces or
// authentication data: a transcript can be kept and shown. Its output depends
// on the messages alone, so that it can be compared with a golden file.
//
// It is for tests and diagnostic tools and is not imported by the daemon.
// A Transcript is not safe for concurrent use; the functions are.
package ipsectest
