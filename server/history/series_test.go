package history_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/server/history"
)

var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const tunnel = "networks/demo/tunnels/berlin--oslo"

func openSeries(t testing.TB, file string, max int64) *history.Series {
	t.Helper()
	s, err := history.OpenSeries(file, max, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func up(octets uint64) history.Point {
	return history.Point{Samples: 1, Up: 1, OctetsIn: octets, OctetsOut: 2 * octets, PacketsIn: 1, PacketsOut: 2}
}

func query(t testing.TB, s *history.Series, name string, start, end time.Time, step time.Duration) history.Curve {
	t.Helper()
	c, err := s.Query(name, start, end, end, step)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func total(c history.Curve) (p history.Point) {
	for _, q := range c.Points {
		p = p.Plus(q)
	}
	return p
}

// What is added comes back at each level, over restarts of the process in the midst of
// windows, each octet once.
func TestHistoryIsKeptAtEachLevel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history.db")
	s := openSeries(t, file, 0)
	now := began
	samples := 0
	for range 30 * 60 * 6 { // 30 hours
		now = now.Add(10 * time.Second)
		samples++
		s.Add(now, map[string]history.Point{tunnel: up(100), "networks/demo/tunnels/other": {Samples: 1}})
		if samples%1111 == 0 { // a little over three hours
			if err := s.Close(now); err != nil {
				t.Fatal(err)
			}
			s = openSeries(t, file, 0)
		}
	}
	defer s.Close(now)
	for _, c := range []struct {
		back, step, want time.Duration
	}{
		{time.Hour, 0, time.Minute}, {24 * time.Hour, 0, time.Minute}, {30 * time.Hour, 0, 10 * time.Minute},
		{24 * time.Hour, time.Hour, time.Hour}, {24 * time.Hour, 7 * time.Minute, 7 * time.Minute}, {29 * 24 * time.Hour, 0, time.Hour},
		{29 * 24 * time.Hour, 24 * time.Hour, 24 * time.Hour}, {time.Hour, time.Second, time.Minute},
	} {
		got := query(t, s, tunnel, now.Add(-c.back), now.Add(time.Second), c.step)
		if got.Step != c.want || len(got.Points) == 0 || len(got.Points) > 1500 {
			t.Errorf("the last %v in steps of %v: steps of %v, want %v; %d points", c.back, c.step, got.Step, c.want, len(got.Points))
		}
		want := min(int64(c.back/(10*time.Second)), int64(samples))
		sum := total(got)
		slack := int64(got.Step / (10 * time.Second)) // the step that began before
		if n := int64(sum.Samples); n < want || n > want+slack {
			t.Errorf("the last %v in steps of %v: %d samples, want %d", c.back, c.step, n, want)
		}
		if sum.Up != sum.Samples || sum.OctetsIn != 100*sum.Samples || sum.OctetsOut != 200*sum.Samples || sum.PacketsOut != 2*sum.Samples {
			t.Errorf("the last %v: %+v", c.back, sum)
		}
	}
	if sum := total(query(t, s, "networks/demo/tunnels/other", began, now, time.Hour)); sum.Up != 0 || sum.Samples != uint64(samples) && sum.Samples != uint64(samples)-1 {
		t.Errorf("one that was down: %+v", sum)
	}
	if got := query(t, s, "networks/demo/tunnels/none", began, now, 0); len(got.Points) != 0 {
		t.Errorf("one that never was: %v", got.Points)
	}
}

// A crash costs what was not saved, and nothing that was is told twice.
func TestWhatWasSavedSurvivesACrash(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history.db")
	s := openSeries(t, file, 0)
	now := began.Add(5 * time.Minute)
	s.Add(now, map[string]history.Point{tunnel: up(1)})
	if err := s.Save(now); err != nil {
		t.Fatal(err)
	}
	s.Add(now.Add(10*time.Second), map[string]history.Point{tunnel: up(1000)}) // lost
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	s = openSeries(t, file, 0)
	defer s.Close(now)
	s.Add(now.Add(20*time.Second), map[string]history.Point{tunnel: up(10)})
	if sum := total(query(t, s, tunnel, began, now.Add(time.Hour), 0)); sum.OctetsIn != 11 || sum.Samples != 2 {
		t.Errorf("after a crash: %+v", sum)
	}
}

func TestWhatIsOldOrTooMuchGoes(t *testing.T) {
	s := openSeries(t, filepath.Join(t.TempDir(), "history.db"), 8<<20)
	now := began
	defer func() { s.Close(now) }()
	for hour := range 40 * 24 {
		samples := map[string]history.Point{}
		for i := range 20 {
			samples[fmt.Sprintf("networks/demo/tunnels/t%d", i)] = up(uint64(hour))
		}
		now = now.Add(time.Hour)
		s.Add(now, samples)
		if err := s.Save(now); err != nil {
			t.Fatal(err)
		}
	}
	got := query(t, s, "networks/demo/tunnels/t1", began, now, 0)
	if oldest := got.TimeOf(got.Points[0]); now.Sub(oldest) > 32*24*time.Hour || now.Sub(oldest) < 29*24*time.Hour {
		t.Errorf("the oldest is of %v, now is %v", oldest, now)
	}
	wide := map[string]history.Point{}
	for i := range 3000 {
		wide[fmt.Sprintf("networks/demo/tunnels/with-a-long-name-as-they-are--%d", i)] = up(1)
	}
	for range 60 {
		now = now.Add(time.Hour)
		s.Add(now, wide)
		if err := s.Save(now); err != nil {
			t.Fatal(err)
		}
	}
	if used := s.Used(); used > 16<<20 {
		t.Errorf("%d MiB are used, 8 are allowed, and what is being filled", used>>20)
	}
	// The finest went first; what is asked for comes from where it is.
	long := "networks/demo/tunnels/with-a-long-name-as-they-are--7"
	if got := query(t, s, long, now.Add(-20*time.Hour), now, 0); got.Step == time.Minute || total(got).Samples < 19 {
		t.Errorf("the last 20 hours: %d samples in steps of %v", total(got).Samples, got.Step)
	}
	if sum := total(query(t, s, "networks/demo/tunnels/t1", now.Add(-time.Hour), now, 0)); sum.Samples != 0 {
		t.Errorf("%+v of one that is no more", sum)
	}
}

func TestAClockThatGoesBackLosesNothing(t *testing.T) {
	s := openSeries(t, filepath.Join(t.TempDir(), "history.db"), 0)
	now := began.Add(3 * time.Hour)
	defer s.Close(now)
	s.Add(now, map[string]history.Point{tunnel: up(1)})
	s.Add(now.Add(-2*time.Hour), map[string]history.Point{tunnel: up(10)})
	s.Add(now.Add(time.Minute), map[string]history.Point{tunnel: up(100)})
	if sum := total(query(t, s, tunnel, began, now.Add(time.Hour), 0)); sum.OctetsIn != 111 {
		t.Errorf("%+v", sum)
	}
}

// Whatever is added comes back, in order, at any step.
func TestAnyHistoryComesBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := openSeries(t, filepath.Join(t.TempDir(), fmt.Sprint(time.Now().UnixNano())), 0)
		now := began
		var want history.Point
		for range rapid.IntRange(1, 60).Draw(r, "samples") {
			now = now.Add(time.Duration(rapid.IntRange(1, 7200).Draw(r, "gap")) * time.Second)
			p := history.Point{
				Samples: rapid.Uint64Range(1, 5).Draw(r, "looks"), OctetsIn: rapid.Uint64Range(0, 1<<40).Draw(r, "in"), Drops: rapid.Uint64Range(0, 3).Draw(r, "drops"),
			}
			if rapid.Bool().Draw(r, "probed") {
				p.Probes = rapid.Uint64Range(0, 1000).Draw(r, "probes")
				p.ProbesLost, p.Missing = rapid.Uint64Range(0, p.Probes).Draw(r, "lost"), rapid.Uint64Range(0, 9).Draw(r, "missing")
				p.RTT, p.Jitter, p.Jitters = rapid.Uint64Range(0, 1<<40).Draw(r, "rtt"), rapid.Uint64Range(0, 1<<30).Draw(r, "jitter"), p.Probes
			}
			p.Up = rapid.Uint64Range(0, p.Samples).Draw(r, "up")
			s.Add(now, map[string]history.Point{tunnel: p})
			want = want.Plus(p)
		}
		step := rapid.SampledFrom([]time.Duration{0, 10 * time.Minute, time.Hour, 90 * time.Minute, 24 * time.Hour}).Draw(r, "step")
		got := query(t, s, tunnel, began, now.Add(time.Second), step)
		sum := total(got)
		sum.Step = 0
		if age := now.Sub(began); age <= 7*24*time.Hour && sum != want {
			r.Fatalf("%+v, want %+v", sum, want)
		}
		if !slices.IsSortedFunc(got.Points, func(a, b history.Point) int { return int(a.Step - b.Step) }) {
			r.Fatalf("points are not in order: %v", got.Points)
		}
		if err := s.Close(now); err != nil {
			r.Fatal(err)
		}
	})
}

// BenchmarkSeries is the history of 20,000 tunnels, as 10,000 edges with two hubs have,
// all of them busy: a look at all, and the write of ten minutes.
func BenchmarkSeries(b *testing.B) {
	s := openSeries(b, filepath.Join(b.TempDir(), "history.db"), 0)
	now := began
	defer func() { s.Close(now) }()
	samples := map[string]history.Point{}
	for i := range 20_000 {
		samples[fmt.Sprintf("networks/demo/tunnels/site-%05d--hub-%d", i/2, i%2)] = history.Point{
			Samples: 1, Up: 1, OctetsIn: 1_250_000, OctetsOut: 125_000, PacketsIn: 1000, PacketsOut: 800,
		}
	}
	look := func() { now = now.Add(10 * time.Second); s.Add(now, samples) }
	b.Run("look", func(b *testing.B) {
		for b.Loop() {
			look()
		}
	})
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			for range 60 {
				look()
			}
			b.StartTimer()
			if err := s.Save(now); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(s.Used())/20_000, "octets/tunnel")
	})
}

// BenchmarkRetention is what 30 days of busy tunnels take, on disk and in memory.
func BenchmarkRetention(b *testing.B) {
	const tunnels = 500
	for b.Loop() {
		s := openSeries(b, filepath.Join(b.TempDir(), "history.db"), 0)
		now := began
		samples := map[string]history.Point{}
		for i := range tunnels {
			samples[fmt.Sprintf("networks/demo/tunnels/site-%05d--hub-%d", i/2, i%2)] = history.Point{
				Samples: 6, Up: 6, OctetsIn: 7_500_000, OctetsOut: 750_000, PacketsIn: 6000, PacketsOut: 4800,
			}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for minute := range 30 * 24 * 60 {
			now = now.Add(time.Minute)
			s.Add(now, samples)
			if minute%60 == 59 {
				if err := s.Save(now); err != nil {
					b.Fatal(err)
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(s.Used())/tunnels, "disk-octets/tunnel")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tunnels, "heap-octets/tunnel")
		if err := s.Close(now); err != nil {
			b.Fatal(err)
		}
	}
}
