package path

import (
	"math"
	"time"
)

// Route flap damping as in RFC 2439, Sections 4.2 and 4.8, of a path in place of a route. Its
// figure of merit counts how often it died or became bad. The values are those of the sample
// in Section 4.7 but for the cutoff: a path is suppressed by the third time in short order,
// not the second, as tunnels are restarted by hand. There is one half-life, whether the path
// is dead or alive.
const (
	cutoff         = 2.5
	reuse          = 0.5
	halfLife       = 5 * time.Minute
	maxSuppression = 15 * time.Minute // Section 4.2: maximum hold down time
	// incidentTime is for how long what happens is one incident: a path that loses more and
	// more and then dies has flapped once.
	incidentTime = holdTime
)

// ceiling bounds the figure of merit, so that no suppression lasts longer than
// maxSuppression after the last flap (RFC 2439, Section 4.2).
var ceiling = reuse * math.Exp2(float64(maxSuppression)/float64(halfLife))

// damper counts how often a path was dead or bad.
type damper struct {
	merit      float64 // RFC 2439's figure of merit, as it was at a time
	at         time.Time
	suppressed bool
}

// value is the figure of merit now.
func (d *damper) value(now time.Time) float64 {
	return d.merit * math.Exp2(-float64(max(0, now.Sub(d.at)))/float64(halfLife))
}

// flap counts that the path died or became bad.
func (d *damper) flap(now time.Time) {
	if d.merit > 0 && now.Sub(d.at) < incidentTime {
		return
	}
	d.merit, d.at = min(d.value(now)+1, ceiling), now
	d.suppressed = d.suppressed || d.merit > cutoff
}

// suppresses says whether the path is not to be used while there is another.
func (d *damper) suppresses(now time.Time) bool {
	if d.suppressed && d.value(now) < reuse {
		d.suppressed = false
	}
	return d.suppressed
}
