// Package server is the controller: it composes the store, the planner, the
// edges' sessions, the fleet's live state and the API, and owns their listeners
// and their order of start and stop. What each does is told in its own package.
//
// Intent flows down: api -> store -> (follower) plan -> session; health flows
// up: session -> fleet -> api, history, and as events into the store. The
// follower of this package is the only place where the two meet: it gives the
// fleet and the sessions what was planned.
//
// Nothing here may be used after Close.
package server
