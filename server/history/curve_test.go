package history

import (
	"slices"
	"testing"
	"time"
)

func TestCurvesAddUp(t *testing.T) {
	fine := Curve{Step: time.Minute, Points: []Point{{Step: 100, Samples: 6, Up: 6, OctetsIn: 1}, {Step: 101, Samples: 6}, {Step: 119, Samples: 1, Up: 1}}}
	other := Curve{Step: time.Minute, Points: []Point{{Step: 99, Samples: 2, Up: 2}, {Step: 101, Samples: 3, Up: 3}}}
	coarse := Curve{Step: 10 * time.Minute, Points: []Point{{Step: 10, Samples: 60, Up: 50}, {Step: 12, Samples: 60, Up: 60}}}
	uneven := Curve{Step: 4 * time.Minute, Points: []Point{{Step: 26, Samples: 24, Up: 24}}}
	for _, c := range []struct {
		name   string
		first  Curve
		others []Curve
		want   Curve
	}{
		{"one", fine, nil, fine},
		{"the same step", fine, []Curve{other}, Curve{time.Minute, []Point{
			{Step: 99, Samples: 2, Up: 2}, {Step: 100, Samples: 6, Up: 6, OctetsIn: 1}, {Step: 101, Samples: 9, Up: 3}, {Step: 119, Samples: 1, Up: 1},
		}}},
		{"a coarser step", fine, []Curve{coarse, other}, Curve{10 * time.Minute, []Point{
			{Step: 9, Samples: 2, Up: 2}, {Step: 10, Samples: 75, Up: 59, OctetsIn: 1}, {Step: 11, Samples: 1, Up: 1}, {Step: 12, Samples: 60, Up: 60},
		}}},
		{"steps of which neither is a multiple", coarse, []Curve{uneven}, Curve{20 * time.Minute, []Point{
			{Step: 5, Samples: 84, Up: 74}, {Step: 6, Samples: 60, Up: 60},
		}}},
		{"nothing", Curve{Step: time.Minute}, []Curve{{Step: time.Hour}}, Curve{Step: time.Hour}},
	} {
		before := slices.Clone(c.first.Points)
		if got := Sum(c.first, c.others...); got.Step != c.want.Step || !slices.Equal(got.Points, c.want.Points) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if !slices.Equal(before, c.first.Points) {
			t.Errorf("%s: what was added is another now", c.name)
		}
	}
}

func TestCurveIsReadAsItWasWritten(t *testing.T) {
	c := Curve{Step: 10 * time.Minute, Points: []Point{
		{Step: 3, Samples: 60, Up: 60}, {Step: 5, Samples: 60, Up: 1, OctetsIn: 1 << 40, Missing: 7, RTT: 1 << 50},
	}}
	got, err := DecodeCurve(c.Step, c.Encoded())
	if err != nil || got.Step != c.Step || !slices.Equal(got.Points, c.Points) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := DecodeCurve(c.Step, nil); err != nil || len(got.Points) != 0 {
		t.Errorf("of nothing: %+v, %v", got, err)
	}
	if _, err := DecodeCurve(c.Step, c.Encoded()[:5]); err == nil {
		t.Error("half a curve is read")
	}
	for _, step := range []time.Duration{0, -time.Minute, time.Millisecond} {
		if _, err := DecodeCurve(step, nil); err == nil {
			t.Errorf("steps of %v are taken", step)
		}
	}
}
