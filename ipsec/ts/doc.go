// Package ts is the algebra of traffic selectors: which packets a Child SA
// carries, and how two peers agree on that.
//
// A Selector stands for a set of packets as seen from one side: those whose
// address is in its range, whose protocol is its own or any, and whose port is
// in its range. A list of selectors stands for the union of them. Everything
// here is a pure function of those sets: parse and print, intersect, narrow,
// compare, match, and translate to and from the wire.
//
// Ports follow RFC 7296, Section 3.13.1, and RFC 4301, Section 4.4.1.1. ANY
// includes packets whose ports are not known, such as later fragments and
// protocols without ports; OPAQUE is those packets only; every other range
// never holds them.
//
// It keeps no state and does no I/O. All functions are safe for concurrent
// use, and none changes its arguments.
//
// Standards:
//   - RFC 7296, Sections 2.9 and 3.13
//   - RFC 4301, Section 4.4.1
package ts
