// Package stepca has authorities signed by Smallstep's step-ca, over the HTTP API by which
// its own clients get certificates: POST /1.0/sign, with a request (RFC 2986) and a token (JWT,
// RFC 7519) that is good once, for five minutes and for that request alone. The token is signed
// with the key of a provisioner of the type JWK, whose template has to make an authority of
// what it signs.
//
// It owns how step-ca is talked to, and bounds that in octets: it follows no redirect, and
// takes no more than 64 KiB. In time its caller bounds it. What step-ca answers is believed by
// nobody here: package pki checks it, as whatever a pki.Signer says.
//
// The key of the provisioner is read for each request, from a file that holds it in JSON (JWK,
// RFC 7517), or as `step` makes it, encrypted with a password (JWE, RFC 7516). It is kept
// nowhere, and shown to nobody.
package stepca
