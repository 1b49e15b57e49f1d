// Package tpm keeps an edge's control key in a TPM 2.0, and has the TPM prove that.
//
// It is built with the tag tpm only: most edges have no TPM, and carry nothing for one.
//
// The key is made by the TPM under the standard storage key of the owner hierarchy (ECC,
// P-256) and kept as a file in the form TSS2 PRIVATE KEY, which no other TPM loads. The
// endorsement key is the standard one that the manufacturer's certificate in the TPM is of,
// ECC before RSA, and the attestation key is a primary one that the TPM derives again each
// time: neither is stored. Every use makes what it needs, works, and flushes it, so that
// never more than two objects are loaded: a TPM without a resource manager has room for
// three. Nothing of the TPM is changed, and no authorization of it may have been set.
//
// A TPM may be used from any goroutine; uses wait for one another.
//
// Standards: TPM 2.0 Library; TCG EK Credential Profile 2.5 (templates L-1 and L-2, and
// their indices); ASN.1 Key Format for TPM Keys.
package tpm
