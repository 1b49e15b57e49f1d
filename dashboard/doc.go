// Package dashboard is the NOC's view of the fleet: an http.Handler with the
// built user interface inside, sign-in, and the bridge on which the browser
// calls the controller's API.
//
// The handler holds no state of its own: a session is an API token of the
// controller, or an ID token of its identity provider, in a cookie that scripts cannot read, so any replica serves any
// browser. It asks the controller for everything, with the viewer's own token,
// and so shows nobody more than the API would.
//
// The user interface's sources are in ui/; dist/ is what they build, committed
// so that Go alone is enough to run it.
package dashboard
