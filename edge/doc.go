// Package edge is the agent of Swanherd: it puts together what the packages
// below it do and runs it.
//
//	state      identity and last intent on disk
//	enroll     gets and renews the identity
//	session    the conversation with the controller
//	reconcile  intent to tunnels and routes
//	hostnet    uplinks, routes, kernel settings
//	health     state of the tunnels, upward
//	probe      what the tunnels' paths are like
//	path       which of several tunnels for the same prefixes has the traffic
//
// An update of the intent is on trial until the controller has heard that it runs and
// leaves the edge its critical tunnels; else the edge goes back by itself.
//
// Intent flows from session (or a file) over reconcile into package engine;
// health flows from the engine over health into session, metrics and the status
// socket. Neither needs the controller to be there: after a start the agent
// runs the intent that it ran last.
//
// It owns nothing of its own but the order in which the parts start and stop:
// at the end the session closes first, then peers are told by the engine, and
// routes go last, so that no packet leaves in clear while the tunnels close. After an
// agent that was killed what was routed into its tunnels goes nowhere until the next one
// runs.
//
// What path chooses becomes the data plane's ranking (chooser).
//
// With several uplinks the session goes by whichever leads to the controller (waysOut).
//
// Run is called once in a process for each state directory and network
// namespace.
package edge
