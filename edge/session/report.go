package session

import (
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxReportBytes bounds what one message tells of tunnels, far below the 4 MiB
// that the controller takes: ten thousand tunnels need several.
const maxReportBytes = 1 << 20

// splitReport divides a report into ones of at most maxReportBytes. Only the
// first is full: it begins everything anew, the others add to it.
func splitReport(full bool, tunnels []*swanherdv1.TunnelReport, removed []string) []*swanherdv1.StatusReport {
	r := &swanherdv1.StatusReport{Full: full}
	out, size := []*swanherdv1.StatusReport{r}, 0
	room := func(n int) {
		if size > 0 && size+n > maxReportBytes {
			r, size = &swanherdv1.StatusReport{}, 0
			out = append(out, r)
		}
		size += n
	}
	for _, t := range tunnels {
		room(proto.Size(t) + fieldOverhead)
		r.Tunnels = append(r.Tunnels, t)
	}
	for _, name := range removed {
		room(len(name) + fieldOverhead)
		r.Removed = append(r.Removed, name)
	}
	return out
}

// splitCounters divides counters likewise; none give no report.
func splitCounters(tunnels []*swanherdv1.TunnelCounters) []*swanherdv1.CounterReport {
	var out []*swanherdv1.CounterReport
	size := maxReportBytes
	for _, t := range tunnels {
		n := proto.Size(t) + fieldOverhead
		if size+n > maxReportBytes {
			out, size = append(out, &swanherdv1.CounterReport{}), 0
		}
		size += n
		last := out[len(out)-1]
		last.Tunnels = append(last.Tunnels, t)
	}
	return out
}

// fieldOverhead is the tag and the length of an element of a repeated field.
const fieldOverhead = 6
