// Package checksum computes the Internet checksum (RFC 1071) over packets, fast
// enough to verify every inner segment.
//
// It owns the sum alone and knows headers only as far as the pseudo-header
// (RFC 9293, Section 3.1; RFC 8200, Section 8.1). On amd64 with AVX2 the bulk of
// a buffer is summed in assembly, elsewhere eight octets at a time in Go; both
// give the same result.
//
// Its functions keep no state and may be called from any goroutine.
package checksum
