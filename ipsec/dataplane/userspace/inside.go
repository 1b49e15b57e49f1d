package userspace

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// inside is where packets of one label come from and go to, that without a label being
// the first. What matches no policy of an inside is dropped there: it is never looked for
// in those of another.
type inside struct {
	label  string
	device *device
	spd    atomic.Pointer[database]
	// mtus asks for the MTU of the interface, in its network namespace.
	mtus *probes
	// transmitters serve the intakes of the interface.
	transmitters []*transmitter
	// further are the lanes of transmitters that are not of the first inside.
	further []*lanes
}

func newInside(label string) *inside {
	in := &inside{label: label}
	in.spd.Store(&database{})
	return in
}

// setRoot has packets be looked up in other policies.
func (in *inside) setRoot(root *spdNode) {
	in.spd.Store(&database{root, in.spd.Load().ranking})
}

// openInsides makes the interfaces of labels, with as many transmitters as the first has.
func (p *Plane) openInsides(c Config) error {
	if err := dataplane.CheckLabels(c.Labels); err != nil {
		return err
	}
	if len(c.Labels) > 0 && !p.socket.shared {
		return errors.New("labels need a kernel that lets several sockets have one port (SO_REUSEPORT)")
	}
	for _, l := range c.Labels {
		in := newInside(l.Name)
		err := l.Within(func() (err error) {
			in.mtus = openProbes(0)
			in.device, err = openDevice(l.Interface, c.MTU, c.QueueLength, len(p.socket.lanes))
			return err
		})
		p.insides = append(p.insides, in)
		for range p.socket.lanes {
			if err != nil {
				break
			}
			var own *lanes
			own, err = p.socket.newLanes()
			in.further = append(in.further, own)
		}
		if err != nil {
			return fmt.Errorf("interface for label %s: %w", l.Name, err)
		}
	}
	return nil
}

// insideOf returns that of a label, nil if there is none.
func (p *Plane) insideOf(label string) *inside {
	for _, in := range p.insides {
		if in.label == label {
			return in
		}
	}
	return nil
}

// lanesOf are those of one transmitter.
func (p *Plane) lanesOf(in *inside, worker int) *lanes {
	if in == p.insides[0] {
		return p.socket.lanes[worker]
	}
	return in.further[worker]
}

// wake makes all transmitters look about.
func (p *Plane) wake() {
	for _, in := range p.insides {
		in.device.wake()
	}
}

// wakeInsides ends the waiting of all who read from interfaces, and of who sends what
// came from them.
func (p *Plane) wakeInsides(past time.Time) (err error) {
	for _, in := range p.insides {
		err = errors.Join(err, in.device.setDeadline(past))
		for _, own := range in.further {
			for _, l := range own.all {
				l.wake()
			}
		}
	}
	return err
}

// closeInsides closes the interfaces, of which those of labels may be made by half, and
// what sends from them.
func (p *Plane) closeInsides() (err error) {
	for i, in := range p.insides {
		if in.device != nil {
			err = errors.Join(err, in.device.close())
		}
		if i == 0 {
			continue // the socket closes what is its own
		}
		if in.mtus != nil {
			in.mtus.close()
		}
		for _, own := range in.further {
			for _, l := range own.all {
				err = errors.Join(err, l.close())
			}
		}
	}
	return err
}

// mergers are those of one receiver, for each inside in the order of Plane.insides.
func (p *Plane) mergers(worker int) (out []*merger) {
	for _, in := range p.insides {
		out = append(out, newMerger(p, in, in.device.outlets(worker)))
	}
	return out
}

// mergerFor is the merger for packets of an SA.
func (r *receiver) mergerFor(sa *inboundSA) *merger {
	if r.merger.inside == sa.inside { // nearly always: the last one's, or there is but one
		return r.merger
	}
	at := slices.IndexFunc(r.mergers, func(m *merger) bool { return m.inside == sa.inside })
	r.merger = r.mergers[at]
	return r.merger
}
