// Package replica makes several controllers over one store act as one: each follows
// every other one and so knows the live state of edges that have their session
// elsewhere.
//
// Who there is comes from the store, where each replica is announced under its lease.
// What edges say goes from the replica that holds their session to the others directly,
// over mutual TLS under the controller's authority; etcd carries none of it. A follower
// that is slow, or was cut off, gets each row once in its present state. A frame has as many
// rows as a follower takes in one message, however long they are.
//
// Whoever is asked for history adds up what each replica has of it.
//
// A replica that cannot be followed but still holds its lease leaves what its edges do
// unknown; one whose lease ended leaves them without a session.
package replica
