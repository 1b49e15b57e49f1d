// Package access decides who may do what: operators by API tokens, edges by
// their control certificates.
//
// It notes when API tokens are used, and writes that now and then.
//
// It owns the forms of tokens (API, enrolment, login links), their life in the
// store, the table of what each method of the API needs, and the gRPC
// interceptors that enforce it: authentication, authorisation by role and
// network, limits on guessing, request validation, logs and the audit of
// rejected tokens. Secrets are stored as SHA-256 only: they are 256 random
// bits, so there is nothing that a slow hash would protect.
//
// It never issues certificates (package pki does) and never looks into the
// topology.
//
// Concurrency: everything exported may be used from any goroutine.
package access
