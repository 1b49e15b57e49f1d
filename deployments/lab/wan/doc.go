// Package wan emulates the line between two sites: delay, jitter, loss, rate and blackout,
// each direction by itself, where the kernel has no netem.
//
// A Line joins two interfaces of a network namespace and moves frames between them. What
// becomes of a frame is decided without I/O (path.go), from a seed.
package wan
