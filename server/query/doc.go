// Package query is the language in which lists are asked for: filters (AIP-160)
// and orders (AIP-132) over messages of one type.
//
// A filter is an expression such as
//
//	labels.region = "emea" AND NOT prefixes:"10.1.*"
//	status.connected = false AND status.last_seen_time < "2026-01-02T15:04:05Z"
//
// Fields have their names in the protos or in JSON. `*` in a text stands for
// anything with `=`, `!=` and `:`; `:` is has: of a list an element, of a map a key, of a text a part
// whatever its case, of anything `*`, which is that it is set. What lies in lists
// can be compared with `:` only. A text, a number, an enumeration, a time (RFC
// 3339) and a duration (`90s`) are written as texts, quoted where they hold more
// than letters, digits and `-_.`. A word by itself, without a field, is refused.
//
// Parsing checks everything against the type, so that a mistake in a filter is
// told rather than matching nothing. The package does no I/O; what it returns may
// be used from any goroutine.
package query
