// Package lab makes small networks out of Linux network namespaces: hosts,
// routers and links between them, programs that run in them, and pings and loads
// of UDP across them. The demonstration and the tests against real peers are built on it.
// Peers that the host does not have come from a [Tree] of Debian; kernels that it
// does not have run in a [VM].
//
// Namespaces are anonymous: nothing appears in /run/netns, and the kernel
// takes everything back when the last process and descriptor are gone, also
// after a crash. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN, as root or in a
// user namespace. A Network is used by one goroutine; the methods of a
// Namespace may run at the same time as each other.
package lab
