package model

import (
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// An Amendment is how one state of what manifests hold differs from another, apart from
// both: it can be made to a state that went on meanwhile.
type Amendment struct {
	// Upserts are the resources that are new or differ, as they are to be.
	Upserts *swanherdv1.Manifest
	// Deleted are the names of those that go.
	Deleted []string
}

// AmendmentBetween finds the amendment that makes from to to.
func AmendmentBetween(from, to *Topology) Amendment {
	c := Amendment{Upserts: &swanherdv1.Manifest{}}
	c.Upserts.Networks = changed(&c, from.Networks, to.Networks)
	c.Upserts.Profiles = changed(&c, from.Profiles, to.Profiles)
	c.Upserts.Sites = changed(&c, from.Sites, to.Sites)
	c.Upserts.Meshes = changed(&c, from.Meshes, to.Meshes)
	c.Upserts.Segments = changed(&c, from.Segments, to.Segments)
	c.Upserts.Gateways = changed(&c, from.Gateways, to.Gateways)
	c.Upserts.Assertions = changed(&c, from.Assertions, to.Assertions)
	return c
}

func changed[T proto.Message](c *Amendment, from, to Table[T]) []T {
	var upserts []T
	for d := range Diff(from, to) {
		if d.New == nil {
			c.Deleted = append(c.Deleted, d.Name)
		} else {
			upserts = append(upserts, d.New.Value)
		}
	}
	return upserts
}

// Apply makes the change. What it changes has no revision yet, as in an edit.
func (c Amendment) Apply(t *Topology) *Topology {
	next := *t
	next.Networks = apply(c, t.Networks, c.Upserts.GetNetworks())
	next.Profiles = apply(c, t.Profiles, c.Upserts.GetProfiles())
	next.Sites = apply(c, t.Sites, c.Upserts.GetSites())
	next.Meshes = apply(c, t.Meshes, c.Upserts.GetMeshes())
	next.Segments = apply(c, t.Segments, c.Upserts.GetSegments())
	next.Gateways = apply(c, t.Gateways, c.Upserts.GetGateways())
	next.Assertions = apply(c, t.Assertions, c.Upserts.GetAssertions())
	return &next
}

func apply[T resource](c Amendment, t Table[T], upserts []T) Table[T] {
	rows := make([]Row[T], len(upserts))
	for i, value := range upserts {
		rows[i] = Row[T]{Name: value.GetName(), Value: value}
	}
	return t.Apply(rows, c.Deleted)
}
