// Package webhook gives alerts to the receivers that operators named: CloudEvents 1.0 in
// JSON (structured mode) over HTTPS, signed as Standard Webhooks are
// (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp`, and in
// `webhook-signature` an HMAC-SHA-256 over the two and the body.
//
// What is to be delivered is in the store, written with the alert, so that it is
// delivered at least once whatever becomes of a replica, and always under the same id.
// Each sink has its own queue, in order and bounded; one that is slow or broken holds up
// no other. The leader delivers.
//
// Where operators send things is not trusted: addresses of loopback and of the link,
// where the metadata of clouds and what else only hosts may reach is, are refused as they
// are dialled, after the name was resolved. No redirect is followed, no proxy of the
// environment used, and of an answer only the status counts.
package webhook
