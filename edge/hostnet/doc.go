// Package hostnet is what the edge sees and changes of the host's network.
//
// It owns three things: finding the uplinks, noticing when they change and keeping them
// apart; the routes that lead the peers' prefixes into the tunnel interface; and the few
// kernel settings without which the host does not forward. Routes and rules carry a
// protocol number of their own ([RouteProtocol]), so that the edge finds and
// removes exactly its own, also after a crash:
//
//	ip route show proto 83
//
// A route may have an MTU: that of a path which takes less than the host knows, for a data
// plane that leaves it to routes to keep packets to it.
//
// Behind each route is a guard of type unreachable: when the interface goes with an
// agent in user space that is killed, packets that were to be protected do not leave by
// the default gateway in clear (RFC 4301, Section 5.1). Guards stay until the next
// agent knows better, or an agent ends in order that may open them.
//
// Where a tunnel is the way out for everything, that is so for what comes from the site's
// prefixes alone: by rules of their own (`ip rule`) and a table (`ip route show table
// 21336`) that is asked before the main one, and has a guard too. So the outer packets of
// tunnels, and the way to the controller, are not led back into the tunnel, and no route
// of the host leads past it.
//
// For transport mode of a data plane in user space, what the host says to a peer is led
// into the interface by a rule and a table of their own (`ip rule`, `ip route show table
// 21335`); what the agent sends carries a mark ([Mark]) that the rule passes by. An uplink
// with strict reverse path filtering (rp_filter=1) would drop what such a peer sends.
//
// With several uplinks, what leaves from an address of one leaves by it and its router, and
// if that is not there by none: the main table knows of one way to everything, and a provider
// drops what has the address of another one (BCP 38). Each uplink has two tables (21337 and
// 21338, 21339 and 21340 and so on), copied from the main one and following it, and three rules
// for each address: its own way to what the main table has by uplinks (5359), then what else
// that has but its default route, so LANs and tunnels (5360), then its own default route
// (5361). With one uplink there is nothing of that, and none of it for an address about which
// a rule of the host says something, nor for an interface that never had a router. Strict
// reverse path filtering on uplinks asks the same rules and goes well with them; where
// the host has its own, a warning says what it would take. The rules outlive an agent that is
// killed; the next one takes them over.
//
// An uplink that was found by its default route keeps its name ([nameUplinks]); that of the
// operator, with --uplink, is not touched. While it is away it is listed without addresses, for
// a week; to forget it sooner, stop the agent and take it out of uplinks.json in its state
// directory.
//
// An uplink that is lost again and again counts as down until it has been up for 10 s without
// a break, if another is up (uplinkflaps.go).
//
// The addresses of probes are a prefix of IPv6 that the host answers for as a whole (`ip
// -6 route show table local proto 83`), so that the interface has not one for each tunnel.
//
// The LANs of a segment are in a network namespace of their own ([Namespace]), with the
// segment's tunnel interface and without uplinks. There all of this is the same, and what
// is sent in one leaves by its tunnels or not at all, whatever routes there are elsewhere.
//
// It never touches a route, address, rule or firewall entry of somebody else,
// and never decides which routes there should be.
//
// # Kernel settings
//
//	net.ipv4.ip_forward=1             where the site has IPv4 prefixes
//	net.ipv6.conf.all.forwarding=1    where the site has IPv6 prefixes
//	net.ipv6.conf.UPLINK.accept_ra=2  with it: otherwise an uplink would lose its
//	                                  default route, as routers ignore
//	                                  advertisements (RFC 4861, Section 6.2.6)
//	net.ipv4.conf.TUNNEL.rp_filter=2  the SA's selectors already tie a source to
//	                                  its tunnel (RFC 4301, Section 5.2)
//
// Each change is logged with the value before. They stay when the agent stops:
// others may have come to rely on them.
//
// # Concurrency
//
// A Host may be used from several goroutines. It acts on the network namespace
// of the thread that opened it.
package hostnet
