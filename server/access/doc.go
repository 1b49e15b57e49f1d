// Package access decides who may do what: operators by API tokens, or by ID tokens of
// an identity provider (OpenID Connect) or client certificates, and role bindings; edges
// by their control certificates.
//
// A binding is looked at in every call, and open streams end with what they were opened
// by. The provider's keys are kept, so a provider that is down stops new sign-ins only.
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
// A role may be limited to what carries labels: a [Scope] says what of a network that
// is. Methods that do not look at it are closed to such callers.
//
// It never issues certificates (package pki does).
//
// Concurrency: everything exported may be used from any goroutine.
package access
