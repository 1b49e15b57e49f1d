// Package pki is the controller's certificate authorities: one of the
// controller, which its server certificate chains to and enrolment tokens pin,
// and one per network, which issues each edge's control certificate and IKE
// certificate from the edge's requests.
//
// It never sees a private key of an edge, and takes nothing from a request but
// its public key: subject, names and usages are the authority's decision. Keys
// of authorities are in the store, sealed.
//
// It revokes what an edge has, and replaces an authority step by step, as fast as
// the edges are through with each step (Rotator). While the controller's own is replaced,
// its certificate also chains to the one before (controller.go).
//
// A network's authority may be below an external one, which signs it when somebody carries the
// request there (external.go), or online (Signer, Requester).
//
// It tells the event log which certificates end soon (ExpiryWatch), and Prometheus
// (ExpiryCollector); purpose is control, ike or authority:
//
//	swanherd_certificate_first_expiry_timestamp_seconds{network,purpose}
//	swanherd_certificates_expiring{network,purpose}
//
// Authority and Keeper may be used from any goroutine.
//
// Standards: RFC 2986 (PKCS #10), RFC 5280 (X.509), RFC 4945 (certificates for
// IKE), RFC 8410 (Ed25519 in X.509).
package pki
