// Package cli is the operator's command line, `swanherd`: contexts and
// credentials, declarative apply, and views of what the fleet runs.
//
// It is a client of the public API and of nothing else, so whatever it can do,
// a program can. It never reads the store and imports no other package of the
// server. Commands run to completion on one goroutine and write results to
// standard output, and everything else to standard error.
//
// Exit codes: 0 done, 1 the call failed, 2 the command line or a file is
// wrong, 3 the server refused the change as invalid, 4 not found, 5 not
// allowed.
package cli
