package reconcile

import (
	"fmt"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Chooser is what the reconciler needs of package path.
type Chooser interface {
	// Choose makes groups those to choose in, and classes those of traffic. Same says which
	// tunnel goes the way that another one, which is not probed itself, goes as well.
	Choose(groups []path.Group, classes []TrafficClass, same map[string]string)
}

// addPath has the tunnel be one of its group.
func (p *Plan) addPath(b *tunnelBuilder) {
	t := b.intent
	way := wayOf(t)
	if t.GetSegment() == "" {
		p.ways[way] = t.GetName()
	}
	is := t.GetPath()
	if is == nil {
		return
	}
	if t.GetSegment() != "" {
		p.ofSegments[t.GetName()] = way
	}
	at, known := p.groupAt[is.GetGroup()]
	if !known {
		at = len(p.Groups)
		p.groupAt[is.GetGroup()] = at
		p.Groups = append(p.Groups, path.Group{Name: is.GetGroup(), Classes: pathClasses(p.Traffic)})
	}
	g := &p.Groups[at]
	g.Members = append(g.Members, path.Member{Tunnel: t.GetName(), Priority: is.GetPriority(), Cost: is.GetCost(), Transport: is.GetClass(), Metered: is.GetMetered()})
}

// wayOf tells tunnels of different segments that go between the same uplinks.
func wayOf(t *swanherdv1.TunnelIntent) string {
	text := t.GetPeerEdge() + " " + t.GetUplink()
	for _, e := range t.GetRemoteEndpoints() {
		text += fmt.Sprintf(" %s %d", e.GetAddress(), e.GetPort())
	}
	return text
}

func pathClasses(classes []TrafficClass) []path.Class {
	out := make([]path.Class, len(classes))
	for i, c := range classes {
		out[i] = path.Class{Name: c.ID, Transports: c.Transports}
	}
	return out
}

// sameWay finds the tunnel of the default segment that goes the way of each one of another
// segment: its probes say how both are.
func (p *Plan) sameWay() map[string]string {
	same := map[string]string{}
	for tunnel, way := range p.ofSegments {
		if other, ok := p.ways[way]; ok {
			same[tunnel] = other
		}
	}
	return same
}

// quickly has a path that has alternatives be probed so that a choice can be made.
func (p *Plan) quickly(at *probe.Path, is *swanherdv1.TunnelPath) {
	if is == nil {
		return
	}
	at.Fast, at.Metered = probe.FastInterval, is.GetMetered()
	for _, c := range p.Traffic {
		at.Classes = append(at.Classes, probe.Class{Name: c.ID, SLA: c.SLA})
	}
}
