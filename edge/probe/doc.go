// Package probe measures the paths of tunnels: loss, round trip and jitter, by packets
// that go through the tunnels themselves (STAMP, RFC 8762, unauthenticated mode), and
// whether that is within the limits of an SLA.
//
// It owns the format of probes, when they are sent, which answers count, and what the
// figures are. Of tunnels for whose traffic there are others it tells within a second
// whether they are alive. It never chooses a path, which package path does, and nothing it
// does brings a tunnel up or takes it down.
//
// [Prober] and [Reflector] do no I/O and read no clock. [Service] runs them over two
// sockets that are bound to the tunnel interface: a probe is a packet as others, which
// the policies lead into the SAs of its tunnel, and what comes out of the interface passed
// the integrity check and the selectors of an SA (RFC 4301, Section 5.2).
//
// # What a packet can do
//
// Between the two addresses of a path there is one tunnel, so they say who sent a packet.
// All others are dropped. An answer counts once, for a probe that waits for one, and only
// if it has that probe's timestamp, whose lowest bits are random. A probe is answered by
// as many octets or fewer, and not more often than twice the rate at which the peer is to
// probe, or 40 times a second, which is more than one in doubt does. The memory of a path is
// the same whatever comes.
//
// # Figures
//
// A probe that is not answered within two seconds is lost. The figures are of the last 100
// probes. The reflector counts its answers, so that the two directions of loss are told
// apart (RFC 8762, Section 4). Jitter is the mean difference between the one-way delays of
// successive probes (RFC 5481, Section 4.1), which needs no common clock. Times of arrival
// are the kernel's, so that answers can be taken up several at once; those of sending are
// this process's, just before the call. What the hosts add to a packet's way is in them:
// some tens of microseconds, more with a data plane that is busy.
//
// # Liveness
//
// A path with alternatives (Path.Fast) is probed every 300 ms. An answer is late after 1.25
// times the round trip, as it was lately, and 50 ms; then the path is suspect, and three probes
// follow 40 ms apart. If none is answered either, and there was no answer for 650 ms, it is
// dead, unless packets come in through its SAs: their counter is read before and after.
// Then it stays suspect, and the loss of its probes tells the rest. So neither a queue that
// drops probes nor one that becomes long kills a path that carries traffic. Dead, it is alive
// again after five answers in a row over two seconds.
//
// Of a peer that never answered nothing is known. Where an edge has so many tunnels that it
// probes each less often, the probes of the peer stand in: if they cease the path is suspect.
// When the answer to a regular probe is late, more follow for five seconds, to tell soon what
// the path loses. Such probes are in no figures, and bounded for all tunnels together; their
// rate is less than what the peer answers. A metered path is probed as others while
// it is in use alone, and otherwise at its own, long interval.
//
// # Concurrency
//
// A Service may be used from any goroutine.
package probe
