// Package wan emulates the line between two sites, where the kernel has no netem: delay,
// jitter, loss of single frames and in bursts, frames that are late or come twice, rate, MTU
// and blackout, each direction by itself.
//
// A Line joins two interfaces of a network namespace and moves frames between them. What
// becomes of a frame is decided without I/O (path.go), from a seed.
package wan
