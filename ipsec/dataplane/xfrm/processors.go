package xfrm

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultWorkers is how many outbound SAs of a child there are at most, as each
	// tunnel has so many. maxWorkers is how many Child SAs with the same selectors a
	// tunnel can have.
	defaultWorkers, maxWorkers = 17, 64
)

// cpusFor are the CPUs that have outbound SAs of their own, if a child may have so many
// SAs: the kernel needs one for each CPU that sends, and there is one for all. It is nil
// if there is but one CPU.
func cpusFor(workers int) []uint32 {
	cpus := onlineCPUs()
	if len(cpus) < 2 || len(cpus) >= workers {
		return nil
	}
	return cpus
}

// onlineCPUs are the numbers of the CPUs that run and that an SA can be for: the kernel
// takes those below the number of CPUs that there could be. It is nil if they cannot be
// found.
func onlineCPUs() []uint32 {
	var lists [2][]uint32
	for i, name := range []string{"possible", "online"} {
		text, err := os.ReadFile("/sys/devices/system/cpu/" + name)
		if err == nil {
			lists[i], err = parseCPUs(strings.TrimSpace(string(text)))
		}
		if err != nil {
			return nil
		}
	}
	possible := uint32(len(lists[0]))
	return slices.DeleteFunc(lists[1], func(n uint32) bool { return n >= possible })
}

// parseCPUs reads a list such as "0-3,8".
func parseCPUs(text string) ([]uint32, error) {
	var cpus []uint32
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil {
			return nil, fmt.Errorf("list of CPUs %q: %w", text, err)
		}
		for n := first; n <= last; n++ {
			cpus = append(cpus, uint32(n))
		}
	}
	return cpus, nil
}

// joins says which policies a new outbound SA serves, by its request ID, and for which
// CPU. It serves those of the SAs of other queues, if there are some: the kernel takes
// the SAs of one request ID for alternatives.
func (p *Plane) joins(c *child, a *association) bool {
	c.uneven = false
	if len(p.cpus) > 0 {
		if a.Queue > 0 {
			a.cpu = p.cpus[(a.Queue-1)%len(p.cpus)]
		}
		p.rank(a)
		for _, o := range c.outbound {
			if o.shares(c.outbound[len(c.outbound)-1]) && o.Queue != a.Queue && o.beside(a) {
				a.request = o.request
				return true
			}
		}
	}
	a.request = p.newRequest()
	return false
}

// rank says when a new outbound SA was made, as far as the kernel needs to know: of
// alternatives, it takes what is younger, and that even before what is for its CPU. So
// those for one CPU have to be younger than those for all, and each older than its
// successor, however somebody sets the clock.
func (p *Plane) rank(a *association) {
	const ofOneCPU = 1 << 30
	p.ranks++
	a.added = p.ranks
	if a.cpu != anyCPU {
		a.added += ofOneCPU
	}
	a.age = uint64(time.Now().Unix()) - a.added
}

// beside reports whether two outbound SAs of a child can serve the same policies.
func (a *association) beside(o *association) bool {
	return a.Local.Addr() == o.Local.Addr() && a.Remote.Addr() == o.Remote.Addr() && a.protocol() == o.protocol() && a.Mode == o.Mode &&
		slices.Equal(a.LocalTS, o.LocalTS) && slices.Equal(a.RemoteTS, o.RemoteTS)
}

// shares reports whether the kernel chooses between the two.
func (a *association) shares(o *association) bool { return a.request == o.request }

// misses reports whether the kernel would go on with an outbound SA that c has no more:
// others share its request ID, and none of them is a younger one for its CPU.
func (c *child) misses(a *association) bool {
	younger := func(o *association) bool { return o.shares(a) && o.cpu == a.cpu && o.added > a.added }
	return slices.ContainsFunc(c.outbound, a.shares) && !slices.ContainsFunc(c.outbound, younger)
}

// everyCPU reports whether each CPU has an outbound SA of its own. The kernel has to be
// told so. Otherwise it remembers the SA for all CPUs, once one has used it, and uses it
// on every one; but if that is told and a CPU has none, it drops what that one sends
// until it gets one.
func (p *Plane) everyCPU(c *child) bool {
	n := len(c.outbound)
	if n == 0 || len(p.cpus) == 0 || c.uneven {
		return false
	}
	for _, cpu := range p.cpus {
		own := func(o *association) bool { return o.shares(c.outbound[n-1]) && o.cpu == cpu }
		if !slices.ContainsFunc(c.outbound, own) {
			return false
		}
	}
	return true
}

// renew has the kernel choose anew among the SAs of a child: it keeps those that it chose
// with the policy.
func (p *Plane) renew(c *child) {
	for _, s := range c.slots {
		if s.direction == directionOut {
			p.spd[s].installed = nil
		}
	}
}

// lacks has all CPUs use the SA that is for all, as one of them has none of its own: the
// kernel removed it at its limit, or the CPU is new.
func (p *Plane) lacks(c *child, cpu uint32) {
	if !slices.Contains(p.cpus, cpu) {
		p.lookForCPUs()
	}
	c.uneven = true
	p.programFor(cpu, c)
}

// lookForCPUs finds those that have come since. Until every one has an SA of its own,
// which is up to who installs them, no child uses those that the others have.
func (p *Plane) lookForCPUs() {
	if !p.able.perCPU {
		return
	}
	known := len(p.cpus)
	for _, cpu := range cpusFor(p.workers) {
		if !slices.Contains(p.cpus, cpu) {
			p.cpus = append(p.cpus, cpu)
		}
	}
	if len(p.cpus) > known {
		fresh := p.cpus[known:]
		p.logger.Info("there are new CPUs, which are to have SAs of their own", "cpus", fresh)
		p.programFor(fresh[0], slices.Collect(maps.Values(p.children))...)
	}
}

func (p *Plane) programFor(cpu uint32, children ...*child) {
	for _, c := range children {
		if err := p.program(c); err != nil {
			p.logger.Warn("a CPU has no SA", "cpu", cpu, "tunnel", c.tunnel, "child", c.name, "error", err)
		}
	}
}
