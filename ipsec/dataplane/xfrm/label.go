package xfrm

import (
	"fmt"
	"hash/fnv"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// Each label has an XFRM interface of its own. Its SAs and policies have the ID of that
// interface, so that the kernel keeps them apart from those of others, whatever their
// selectors are.

const (
	// interfaceTag is the upper octet of all our interface IDs.
	interfaceTag, interfaceMask = 0x53 << 24, 1<<24 - 1
	// interfaceID is that without a label.
	interfaceID = 0x5357414e
)

// ourInterface reports whether an interface ID marks what is ours in tunnel mode.
func ourInterface(id uint32) bool { return id&^interfaceMask == interfaceTag }

// idOf is the interface ID of a label: the same each time, for what an earlier process left.
func idOf(label string) uint32 {
	if label == "" {
		return interfaceID
	}
	h := fnv.New32a()
	h.Write([]byte(label))
	return interfaceTag | (h.Sum32()>>24^h.Sum32())&interfaceMask
}

// openLinks makes the interfaces, the one without a label first.
func (p *Plane) openLinks(c Config) error {
	if err := dataplane.CheckLabels(c.Labels); err != nil {
		return err
	}
	for _, in := range append([]dataplane.Label{{Interface: c.Interface}}, c.Labels...) {
		id := idOf(in.Name)
		for _, o := range p.links {
			if o.ifID == id || id == probeID {
				return fmt.Errorf("label %q cannot be told from %q by its number: rename one", in.Name, o.label)
			}
		}
		l, err := openLinkIn(in, id, c.MTU)
		if err != nil {
			return err
		}
		p.links = append(p.links, l)
	}
	p.link = p.links[0]
	return nil
}

// linkOf is the interface of a label, nil if there is none.
func (p *Plane) linkOf(label string) *link {
	for _, l := range p.links {
		if l.label == label {
			return l
		}
	}
	return nil
}

// checkLabel reports whether traffic of a label has a place here.
func (p *Plane) checkLabel(label string, mode dataplane.Mode) error {
	switch {
	case p.linkOf(label) == nil:
		return dataplane.NoLabel(label)
	case label != "" && mode == dataplane.Transport:
		return dataplane.ErrTransportLabel
	}
	return nil
}
