// Package health turns what the engine and the data plane say into what people
// and the controller read: a report per tunnel, counters, and metrics.
//
// It owns the notion of a transition: a report that differs from the last one
// in anything but its counters. Reports flow up and never back: nothing here
// changes a tunnel.
//
// # Concurrency
//
// A Tracker may be used from any goroutine. Only the latest report of each
// tunnel is kept, so a controller that reads slowly misses states in between
// and never the last one, and memory is bounded by the number of tunnels.
//
// # Metrics
//
// Their names and labels are stable.
//
//	swanherd_edge_tunnels{state}                          tunnels: idle, connecting, established, partial, failed
//	swanherd_edge_tunnel_up{tunnel}                       1 with every Child SA
//	swanherd_edge_tunnel_failure{tunnel,kind}             1 while the tunnel's last failure is of that kind (TunnelErrorKind)
//	swanherd_edge_tunnel_path_mtu_octets{tunnel}          the longest IP datagram that is known to reach the peer (RFC 8899)
//	swanherd_edge_tunnel_path_limited{tunnel}             1 while the path drops longer ones that the host would send
//	swanherd_edge_tunnel_probe_rtt_seconds{tunnel,quantile}   round trips of the last 100 probes: 0.5, 0.99
//	swanherd_edge_tunnel_probe_jitter_seconds{tunnel,direction}  mean difference between the delays of successive probes
//	swanherd_edge_tunnel_probes_total{tunnel}             probes of which it is known whether they were answered
//	swanherd_edge_tunnel_probes_lost_total{tunnel}        and those that were not
//	swanherd_edge_tunnel_sla_violated{tunnel,metric}      1 while the path is over that limit of its SLA: loss, latency, jitter
//	swanherd_edge_path_in_use{group,class,tunnel}         1 while the tunnel has, or shares, the traffic of the class; "" is what is of no class
//	swanherd_edge_path_state{tunnel,state}                1 for the state of a path that has alternatives: unknown, alive, suspect, dead
//	swanherd_edge_path_switches_total{cause}              how often traffic went another way, see below
//	swanherd_edge_session_connected                       1 with a session with the controller
//	swanherd_edge_child_packets_total{tunnel,child,direction}   packets through the Child SAs of a name
//	swanherd_edge_child_bytes_total{tunnel,child,direction}     octets of them
//	swanherd_edge_child_dropped_packets_total{tunnel,child,reason}  replay, integrity, selector
//	swanherd_edge_child_missing_packets_total{tunnel,child}     sequence numbers that never arrived
//	swanherd_edge_ike_received_datagrams_total            IKE datagrams received
//	swanherd_edge_ike_sent_datagrams_total                and sent
//	swanherd_edge_ike_send_errors_total                   that the host refused to send
//	swanherd_edge_ike_dropped_datagrams_total{reason}     dropped before any IKE SA saw them, see below
//	swanherd_edge_ike_unknown_answered_total              peers told that their SA is not here (RFC 6290)
//	swanherd_edge_ike_handshakes_total                    handshakes begun by peers
//	swanherd_edge_ike_handshakes_shed_total               given up because the workers had too many
//	swanherd_edge_ike_half_open                           half-open IKE SAs
//	swanherd_edge_tcp_connections                         TCP connections of IKE and ESP (RFC 9329)
//	swanherd_edge_tcp_connections_refused_total           that peers opened in vain: too many without an IKE SA
//	swanherd_edge_tcp_dropped_packets_total               ESP packets that found no connection or no room in it
//	swanherd_edge_plane_errors_total                      operations that the data plane refused
//	swanherd_edge_plane_events_lost_total                 events of the data plane for a tunnel that is gone
//	swanherd_edge_plane_dropped_packets_total{reason}     dropped by the data plane outside of SAs, see below
//	swanherd_edge_plane_latency_seconds{direction}        histogram: a batch of packets, from the first read to the last write
//	swanherd_edge_tunnel_panics_total                     tunnels stopped by a defect of the agent
//
// Anybody on the Internet can raise swanherd_edge_ike_dropped_datagrams_total.
// Its reasons, in the order in which they are found:
//
//	stun             an answer of STUN that nobody waits for: late, or forged
//	too_short        shorter than an IKE header: noise
//	length_mismatch  the header's length is not the datagram's: noise, or a path that cuts datagrams
//	version          a major version other than 2: a peer configured for IKEv1
//	spi              an SPI is zero that must not be, or the other way about: noise
//	flags            flags or message ID that the exchange cannot have: noise
//	init_malformed   IKE_SA_INIT without a nonce where it belongs, or that does not parse
//	rate_limited     a source sends more IKE_SA_INIT than it may: an attack, or many peers behind one address
//	cookie_demanded  a cookie was asked for, the request not kept: load, harmless in small numbers
//	half_open_full   no room for another half-open IKE SA: an attack, or Limits.HalfOpen is too small
//	unknown_spi      no IKE SA has this SPI: after a restart peers cause it until they notice
//	reassembly_full  no room for more fragments of half-open IKE SAs: an attack
//	mailbox_full     the loop that owns the SPI has fallen behind: this host is overloaded
//	no_tunnel        the peer's identity and address fit no tunnel: compare the configurations
//	handshake        a half-open IKE SA came to nothing; the log says why, for each source now and then
//	busy             a handshake that the processors could not take up soon: too many peers come at once
//
// The causes of swanherd_edge_path_switches_total:
//
//	first            nothing carried the traffic before
//	dead             a path in use went down, or answers no probes and nothing else comes from there
//	brown-out        it loses a tenth of its probes or more
//	sla              it is over the SLA of the class, and another is not
//	damped           it was dead or bad too often
//	better           another path is as good or better, and has been for 10 s
//	configured       the group has other members, or they have other costs
//
// The reasons of swanherd_edge_plane_dropped_packets_total. The kernel's data plane
// has neither these nor the latency. Outbound:
//
//	no_policy        no tunnel protects this destination: a route is too wide, or the intent lacks a prefix
//	no_sa            the tunnel has no SA that may carry the packet (yet)
//	discarded        a policy wants it
//	loop             a route leads the peer's outer address into the tunnel
//	too_big          longer than the path takes; the sender was told by ICMP
//	unfit            transport mode has no place for it: a fragment whose others did not come, a source route that is not over, or IP options in a TCP connection
//	expired          the SA is at the end of its lifetime and was not replaced, in either direction
//	out_malformed    no whole IP packet
//	send_error       the host refused to send: look at its routes and its firewall
//
// And inbound:
//
//	unknown_spi      no such SA; after a restart peers cause it until they notice
//	malformed        no ESP packet, or no IP packet in it: noise
//	dummy            dummy packets of a peer that hides its traffic (RFC 4303, Section 2.6): nothing is lost
//	congestion       marked by a router, and its sender would not have seen it (RFC 6040, Section 4.2)
//	deliver_error    the interface refused it: it is down, or its host has no memory
package health
