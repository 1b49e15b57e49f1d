package dataplane

// Drift is something that somebody else did to what a plane has set up.
type Drift struct {
	// Message says what was found, in one line.
	Message string
	// Repaired: it is as it should be again. Otherwise it is tried again with the next
	// change, and Message says why it failed.
	Repaired bool
}

// DriftingPlane is a Plane that sets up what others on the host can change, such as
// policies of the kernel. It notices that, and mends it.
type DriftingPlane interface {
	Plane
	// Drifts gets what was found and mended. One that is not taken soon is lost.
	Drifts() <-chan Drift
}
