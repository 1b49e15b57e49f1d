// Package health turns what the engine and the data plane say into what people
// and the controller read: a report per tunnel, counters, and metrics.
//
// It owns the notion of a transition: a report that differs from the last one
// in anything but its counters. Reports flow up and never back: nothing here
// changes a tunnel.
//
// # Concurrency
//
// A Tracker may be used from any goroutine. Only the latest report of each
// tunnel is kept, so a controller that reads slowly misses states in between
// and never the last one, and memory is bounded by the number of tunnels.
package health
