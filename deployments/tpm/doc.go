// Package tpm tests edges whose control key is in a TPM: the edge's side against swtpm, which
// is a TPM 2.0 but for the hardware, and a real controller, also with keys that nobody
// honest has.
//
// Its tests need the tag tpm, as the edge's side does.
package tpm
