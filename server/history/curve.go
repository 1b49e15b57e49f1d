package history

import (
	"fmt"
	"slices"
	"time"
)

// Curve is a series in steps of the same length.
type Curve struct {
	Step   time.Duration
	Points []Point // in order; a step of which nothing is known has none
}

// TimeOf is when a point's step begins.
func (c Curve) TimeOf(p Point) time.Time {
	return time.Unix(p.Step*int64(c.Step.Seconds()), 0).UTC()
}

// Encoded returns the points as a block.
func (c Curve) Encoded() []byte {
	var b []byte
	before := int64(-1)
	for _, p := range c.Points {
		b = appendPoint(b, before, p)
		before = p.Step
	}
	return b
}

// DecodeCurve reads what Encoded wrote.
func DecodeCurve(step time.Duration, points []byte) (Curve, error) {
	if step < time.Second || step%time.Second != 0 {
		return Curve{}, fmt.Errorf("a curve in steps of %v, which is no whole number of seconds", step)
	}
	decoded, err := decodeBlock(points)
	return Curve{Step: step, Points: decoded}, err
}

// Sum adds curves up, in the smallest step that is one for each of them.
func Sum(first Curve, others ...Curve) Curve {
	out := Curve{Step: first.Step}
	for _, c := range others {
		out.Step = leastCommonMultiple(out.Step, c.Step)
	}
	var all []Point
	for _, c := range append([]Curve{first}, others...) {
		all = append(all, c.Points...)
		for i := len(all) - len(c.Points); i < len(all); i++ {
			all[i].Step /= int64(out.Step / c.Step)
		}
	}
	slices.SortFunc(all, func(a, b Point) int { return int(a.Step - b.Step) })
	for _, p := range all {
		out.append(p)
	}
	return out
}

// append adds a point of the last step, or of one after it.
func (c *Curve) append(p Point) {
	if n := len(c.Points); n > 0 && c.Points[n-1].Step == p.Step {
		c.Points[n-1].add(p)
	} else {
		c.Points = append(c.Points, p)
	}
}

func leastCommonMultiple(a, b time.Duration) time.Duration {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}
