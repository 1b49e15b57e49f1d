package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// Segment is where an edge has the LANs of a segment other than the default one.
type Segment struct {
	// Name is the segment's id.
	Name string
	// Namespace is the network namespace that the LAN interfaces are in: its name below
	// /run/netns, or its path.
	Namespace string
}

var segmentPattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ParseSegment parses what --segment says: name=corp,netns=corp.
func ParseSegment(text string) (Segment, error) {
	const form = "name=corp,netns=corp"
	var s Segment
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "name":
			s.Name = value
		case "netns":
			s.Namespace = value
		default:
			return s, fmt.Errorf("segment %q: %q: unknown key; the form is %s", text, part, form)
		}
	}
	switch {
	case !segmentPattern.MatchString(s.Name) || s.Namespace == "":
		return s, fmt.Errorf("segment %q lacks its name or network namespace; the form is %s", text, form)
	case s.Name == "default":
		return s, fmt.Errorf("segment %q: the default segment is where the uplinks are, and needs no network namespace", text)
	}
	return s, nil
}

// segmentPlace is an open Segment.
type segmentPlace struct {
	Segment
	namespace *hostnet.Namespace
	host      *hostnet.Host
}

// openSegments opens the network namespaces of segments, each of which has one to itself.
func openSegments(segments []Segment, logger *slog.Logger) (open []*segmentPlace, err error) {
	for _, s := range segments {
		at := &segmentPlace{Segment: s}
		if at.namespace, err = hostnet.OpenNamespace(s.Namespace); err == nil {
			for _, other := range open {
				if other.Name == s.Name || other.namespace.Equal(at.namespace) {
					err = fmt.Errorf("segment %s has the same name or network namespace", other.Name)
				}
			}
			if err == nil {
				at.host, err = hostnet.OpenIn(at.namespace, logger)
			}
			open = append(open, at)
		}
		if err != nil {
			closeSegments(open)
			return nil, fmt.Errorf("segment %s: %w", s.Name, err)
		}
	}
	return open, nil
}

func closeSegments(open []*segmentPlace) {
	for _, at := range open {
		if at.host != nil {
			at.host.Close()
		}
		at.namespace.Close()
	}
}

// labels are the segments' interfaces, for the data plane.
func labels(open []*segmentPlace, name string) (out []dataplane.Label) {
	for _, at := range open {
		out = append(out, dataplane.Label{Name: at.Name, Interface: name, Enter: at.namespace.Do})
	}
	return out
}

// places are the segments' places, for the reconciler.
func places(open []*segmentPlace, name string) map[string]reconcile.Place {
	out := map[string]reconcile.Place{}
	for _, at := range open {
		out[at.Name] = reconcile.Place{Host: at.host, Interface: name}
	}
	return out
}

// release lets go what the segments' tunnels keep from leaving otherwise.
func release(open []*segmentPlace, name string) error {
	var errs []error
	for _, at := range open {
		if err := at.host.Release(name); err != nil {
			errs = append(errs, fmt.Errorf("segment %s: %w", at.Name, err))
		}
	}
	return errors.Join(errs...)
}
