// Package model is what the operator wants, as data: typed resource names, the
// immutable topology that the planner reads, validation of a whole state
// beyond what a single message can say, and the merge of a manifest into it.
//
// It does no I/O, reads no clock and starts no goroutine. Tables and
// topologies are immutable; every function may be called from any goroutine.
// Messages held by a Table are shared and must not be changed.
package model
