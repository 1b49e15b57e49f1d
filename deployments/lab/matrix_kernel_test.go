package lab_test

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// TestInteropKernel runs our engine against strongSwan with the kernel's ESP,
// which has what charon's own lacks. The host's kernel may have none, so it runs
// in a virtual machine.
func TestInteropKernel(t *testing.T) {
	if inGuest() {
		runCases(t, kernelCases(), newKernelCharonPeer)
		return
	}
	runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
}

// TestInteropQueues has several Child SAs share the traffic of the same selectors (RFC
// 9611) with strongSwan, which has one for all of its processors and one for each of
// the two: as many as we have. Its kernel wants one for each that sends.
func TestInteropQueues(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelNewDir, lab.TreeStrongSwan)
		return
	}
	cases := []interopCase{
		{name: "userspace", native: true, steps: eachRekey()},
		{name: "kernel", kernel: true, steps: slices.Concat([]step{ownSAs()}, eachRekey(), []step{ownSAs()})},
	}
	for i := range cases {
		cases[i].queues, cases[i].child = 3, "        per_cpu_sas = yes"
	}
	runCases(t, cases, newKernelCharonPeer)
}

// ownSAs wants what either end sends from a CPU to go through the SA of that CPU.
func ownSAs() step {
	return step{"traffic from either CPU", func(x *run) {
		x.eachHasOwn(ours, dataplane.Outbound, "net#1", "net#2")
		x.eachHasOwn(theirs, dataplane.Inbound)
	}}
}

// eachHasOwn sends from the LAN of one end, from either CPU, and wants an SA of that
// direction at our end to carry that, another one for each CPU: those of the children
// of these names, if names are given.
func (x *run) eachHasOwn(from side, direction dataplane.Direction, names ...string) {
	const packets = 400 // the flow that runs all the while needs some 7 s for as many
	host := x.flowHost(from)
	var carriers []string
	for cpu := range 2 {
		before := x.packets(direction)
		x.must(host.sendFrom(cpu, packets))
		var most string
		x.await(fmt.Sprintf("an SA with the packets of CPU %d of %v", cpu, from), func() (bool, string) {
			now := x.packets(direction)
			came := func(name string) uint64 { return now[name] - before[name] }
			names := slices.Collect(maps.Keys(now))
			if len(names) > 0 {
				most = slices.MaxFunc(names, func(a, b string) int { return cmp.Compare(came(a), came(b)) })
			}
			return most != "" && came(most) >= packets, fmt.Sprintf("%v after %v", now, before)
		})
		carriers = append(carriers, most)
	}
	if carriers[0] == carriers[1] || names != nil && !slices.Equal(carriers, names) {
		x.t.Errorf("the packets of the two CPUs of %v went through %v, want %v", from, carriers, names)
	}
}

// packets are the counters of our Child SAs.
func (x *run) packets(direction dataplane.Direction) map[string]uint64 {
	out := map[string]uint64{}
	counters := x.gateway.plane.Counters()
	for _, tunnel := range x.gateway.engine.Status() {
		for _, c := range tunnel.Children {
			spi := c.InboundSPI
			if direction == dataplane.Outbound {
				spi = c.OutboundSPI
			}
			for _, n := range counters {
				if n.SPI == spi && n.Direction == direction {
					out[c.Name] += n.Packets
				}
			}
		}
	}
	return out
}

// sendFrom sends datagrams to the other host from one CPU, which takes them through the
// gateway as well.
func (h flowHost) sendFrom(cpu, packets int) error {
	return onCPU(cpu, func() error {
		var c *net.UDPConn
		err := h.ns.Do(func() (err error) {
			c, err = net.DialUDP("udp", &net.UDPAddr{IP: h.own.AsSlice()}, &net.UDPAddr{IP: h.far.AsSlice(), Port: 9})
			return err
		})
		if err != nil {
			return err
		}
		defer c.Close()
		for range packets {
			_, _ = c.Write([]byte("hello")) // that nobody listens may be told by ICMP
		}
		return nil
	})
}

// newKernelCharonPeer is the strongSwan of the root.
func newKernelCharonPeer(x *run) peer {
	p := newCharonPeer(lab.Tree{})(x).(*charonPeer)
	p.config.KernelESP = true
	return p
}

// kernelCases need the kernel's ESP at the peer.
func kernelCases() []interopCase {
	return slices.Concat(
		each(interopCase{name: "esn", esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "esn, aes-cbc, crossing rekeys", esp: "aes256-sha256-x25519-esn", steps: []step{crossing(rekeysChild, rekeysChild), crossing(rekeysIKE, rekeysIKE)}}),
		each(interopCase{name: "esn, both behind NAT", esp: "chacha20poly1305-x25519-esn", nat: [2]bool{true, true}, tunnel: func(c *engine.TunnelConfig) { c.ForceEncap = false }, steps: []step{rekeyChild(theirs), rekeyIKE(ours)}}),
		each(interopCase{name: "hybrid, certificates", auth: "ed25519+ecdsa384", ike: "aes256gcm16-prfsha384-x25519-ke1_mlkem768", esp: "aes256gcm16-x25519-ke1_mlkem768-esn", steps: []step{rekeyIKE(theirs), rekeyChild(ours)}}),
		[]interopCase{
			{name: "rekeyed by packets", initiates: theirs, child: "        rekey_packets = 100\n        life_packets = 1000000\n        rand_packets = 0", steps: []step{childRekeyed(1)}},
			{
				name: "internal address/given by ours", initiates: theirs, conn: "    vips = 0.0.0.0", child: "        local_ts = dynamic",
				tunnel: func(c *engine.TunnelConfig) {
					pool, err := ike.NewPool(netip.MustParsePrefix("10.2.0.2/32"))
					if err != nil {
						panic(err)
					}
					c.InternalOffer = &ike.InternalOffer{Pool: pool, DNS: []netip.Addr{netip.MustParseAddr("10.1.0.53")}, Required: true}
				},
				before: []step{theirRoute()},
				steps:  append(eachRekey(), internal("10.2.0.2", "10.1.0.53"), selectors("10.1.0.0/24", "10.2.0.2/32")),
			},
		},
		mobikeCases(),
		bothKernelCases(),
		nativeCases(),
	)
}

// nativeCases have ours in user space without UDP, and theirs of the kernel.
func nativeCases() []interopCase {
	cases := slices.Concat(
		each(interopCase{name: "native/esn", esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/peer inside", steps: append([]step{peerInside()}, eachRekey()...)}),
		each(interopCase{name: "native/aes-cbc", esp: "aes128-sha256-x25519", steps: eachRekey()}),
		each(interopCase{name: "native/transport", transport: true, esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/ah", esp: "ah-sha256-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/ah transport", transport: true, esp: "ah-sha512-x25519", steps: eachRekey()}),
	)
	for i := range cases {
		cases[i].native = true
	}
	return slices.Concat(cases,
		each(interopCase{name: "native/transport in UDP", transport: true, esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "native/transport behind NAT", transport: true, nat: [2]bool{true, true}, steps: eachRekey()}),
	)
}

// bothKernelCases have the kernel's ESP and AH at both ends.
func bothKernelCases() []interopCase {
	cases := slices.Concat(
		each(interopCase{name: "kernel/esn", esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/aes-cbc", esp: "aes128-sha256-x25519", steps: []step{crossing(rekeysChild, rekeysChild), crossing(rekeysIKE, rekeysIKE)}}),
		each(interopCase{name: "kernel/both behind NAT", nat: [2]bool{true, true}, steps: []step{rekeyChild(theirs), rekeyIKE(ours)}}),
		each(interopCase{name: "kernel/transport", transport: true, esp: "aes256gcm16-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/transport behind NAT", transport: true, nat: [2]bool{true, true}, steps: eachRekey()}),
		each(interopCase{name: "kernel/peer inside", steps: append([]step{peerInside()}, eachRekey()...)}),
		each(interopCase{name: "kernel/gmac", esp: "aes256gmac-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/ah", esp: "ah-sha256-x25519-esn", steps: eachRekey()}),
		each(interopCase{name: "kernel/ah transport", transport: true, esp: "ah-sha512-x25519", steps: eachRekey()}),
	)
	for i := range cases {
		cases[i].kernel = true
	}
	return cases
}
