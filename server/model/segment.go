package model

import (
	"fmt"
	"slices"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// DefaultSegment is the id of the segment that every network has, and in which a
	// site's prefixes are that no other one has.
	DefaultSegment = "default"
	// maxSegments bounds the segments of a network.
	maxSegments = 64
)

// SegmentID is the id in a segment's name; empty for the default one, and for "".
func SegmentID(name string) string {
	id := name[strings.LastIndexByte(name, '/')+1:]
	if id == DefaultSegment {
		return ""
	}
	return id
}

// PrefixesIn are what a site has in the segment with that id, the default one's being "",
// and whether it is in it at all. All sites are in the default one.
func PrefixesIn(s *swanherdv1.Site, segment string) (prefixes []string, in bool) {
	if segment == "" {
		return s.GetPrefixes(), true
	}
	for _, x := range s.GetSegments() {
		if SegmentID(x.GetSegment()) == segment {
			return x.GetPrefixes(), true
		}
	}
	return nil, false
}

// Carries says whether a mesh carries the segment with that id.
func Carries(m *swanherdv1.Mesh, segment string) bool {
	return len(m.GetSegments()) == 0 ||
		slices.ContainsFunc(m.GetSegments(), func(name string) bool { return SegmentID(name) == segment })
}

// CheckSegment says what is wrong with the name of a segment, the default one's being good
// too, in a resource or question of a network. sees as in ValidateState.
func CheckSegment(t *Topology, network NetworkName, name string, sees func(name string) bool) (problem, remedy string) {
	parsed, err := ParseSegmentName(name)
	switch {
	case err != nil:
		return err.Error(), "write " + network.String() + "/segments/{segment}"
	case parsed.Network != network.Network: // whether it is there or not
		return name + " is in another network", "name a segment of " + network.String()
	case parsed.Segment == DefaultSegment:
		return "", ""
	}
	if _, ok := t.Segments.Get(name); !ok {
		v := validator{t: t, sees: sees}
		return name + " does not exist", "create it, or name one of the network's" + v.known(t.Segments.names(network.String()+"/"))
	}
	return "", ""
}

func (v *validator) segments() {
	of := map[string]int{}
	for row := range v.t.Segments.All() {
		v.inNetwork(row.Name)
		if SegmentID(row.Name) == "" {
			v.add(row.Name, "name", "the default segment is always there", "leave it out, or give the segment another name")
		}
		network := networkOf(row.Name)
		if of[network]++; of[network] == maxSegments+1 {
			v.add(row.Name, "name", fmt.Sprintf("%s has more than %d segments", network, maxSegments), "remove some")
		}
	}
}

// siteSegments checks the segments of a site, and returns the prefixes that it has in each,
// by the segment's name.
func (v *validator) siteSegments(s *swanherdv1.Site) map[string][]takenPrefix {
	out := map[string][]takenPrefix{}
	first := map[string]int{}
	for i, x := range s.GetSegments() {
		field, name := fmt.Sprintf("segments[%d]", i), x.GetSegment()
		problem, remedy := CheckSegment(v.t, NetworkName{strings.TrimPrefix(networkOf(s.GetName()), "networks/")}, name, v.sees)
		if problem == "" && SegmentID(name) == "" {
			problem, remedy = "the default segment's prefixes are those of the site itself", "put them into prefixes"
		}
		if before, twice := first[name]; twice && problem == "" {
			problem, remedy = fmt.Sprintf("is the same segment as segments[%d]", before), "put the prefixes of both into one"
		}
		if problem != "" {
			v.add(s.GetName(), field+".segment", problem, remedy)
			continue
		}
		first[name] = i
		out[name] = v.prefixes(s.GetName(), field+".", x.GetPrefixes())
	}
	return out
}

// meshSegments checks the segments of a mesh.
func (v *validator) meshSegments(m *swanherdv1.Mesh) {
	first := map[string]int{}
	for i, name := range m.GetSegments() {
		field := fmt.Sprintf("segments[%d]", i)
		problem, remedy := CheckSegment(v.t, NetworkName{strings.TrimPrefix(networkOf(m.GetName()), "networks/")}, name, v.sees)
		if before, twice := first[name]; twice && problem == "" {
			problem, remedy = fmt.Sprintf("is the same segment as segments[%d]", before), "remove one of the two"
		}
		if problem != "" {
			v.add(m.GetName(), field, problem, remedy)
			continue
		}
		first[name] = i
	}
}
