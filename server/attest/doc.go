// Package attest verifies that a key is in a TPM 2.0, by what the TPM says of it.
//
// An edge shows its endorsement key (EK) with a certificate, an attestation key (AK), and
// TPM2_Certify of its own key by the AK. Verify holds each to what it has to be; the
// challenge that Evidence makes then can be answered only by the TPM that has the EK and
// the AK both. Who vouches that the EK is a TPM's, and not a program's, are the
// authorities of TPM manufacturers, or an operator who knows the EK's fingerprint.
//
// It does no I/O but for randomness, reads no clock, and keeps nothing. Everything that it reads
// is from somebody who is not believed: a length is held to the octets that are there
// before anything is allocated by it, and a structure that is not one of the few that can
// be good is refused where it begins.
//
// All of it may be used from any goroutine.
//
// Standards: TPM 2.0 Library, Part 1 (24, credential protection), Part 2 (structures),
// Part 3 (18.2, TPM2_Certify; 12.5, TPM2_ActivateCredential); TCG EK Credential Profile
// 2.5 (certificates of EKs); RFC 5280.
package attest
