package session

// Tend looks after the sessions as if the tick had been at that time.
var Tend = (*Server).tend
