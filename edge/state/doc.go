// Package state keeps what an edge must not forget: its two identities, the
// intent that it runs, and what its IKE engine remembers.
//
// It owns the layout of the state directory, the permissions of what is in it,
// and the promise that every write is whole or not there: data goes to a
// temporary file, is synced, and is renamed over the old one. The directory is
// 0700, its files 0600, and a lock keeps a second agent out.
//
//	identity/         control.{key,crt}, ike.{key,crt}, controller-roots.crt,
//	                  network-roots.crt, edge.json: one identity, replaced whole
//	                  control.key may be a key in a TPM (TSS2 PRIVATE KEY)
//	identity.next/    the candidate: keys made before the controller is asked
//	intent.binpb      the intent last confirmed, with a checksum
//	trial.binpb       which update is on trial, or was taken back
//	uplinks.json      the names of the uplinks that were found
//	engine.json       secrets of the IKE engine that have to survive a restart
//	status.sock       where the running agent answers `swanherd-edge status`
//	lock              held by the running agent
//
// It never talks to the network and never decides what to run. Secrets leave it
// only as key values; no error of it holds their octets.
//
// A Dir is used by one goroutine at a time for each kind of thing it keeps: the
// identity by whoever enrols or renews, the intent by whoever applies it.
package state
