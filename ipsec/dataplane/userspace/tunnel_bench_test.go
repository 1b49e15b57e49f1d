package userspace

import (
	"io"
	"net"
	"net/netip"
	"testing"
)

// BenchmarkTunnelTCP is one TCP connection through two gateways in two network
// namespaces of this machine: both ends' encryption, both kernels' stacks, and
// the two programs share its CPUs.
func BenchmarkTunnelTCP(b *testing.B) {
	x := newTunnel(b, outerA, outerB, gcm128)
	var listener net.Listener
	var err error
	x.b.ns.do(func() { listener, err = net.Listen("tcp4", netip.AddrPortFrom(siteB.Addr(), 0).String()) })
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	const chunk = 1 << 20
	got := make(chan struct{}, 1024)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, chunk)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			got <- struct{}{}
		}
	}()
	var c net.Conn
	x.a.ns.do(func() { c, err = net.Dial("tcp4", listener.Addr().String()) })
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	go func() {
		buf := make([]byte, chunk)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	b.SetBytes(chunk)
	for b.Loop() {
		<-got
	}
}

// BenchmarkTunnelRoundTrip is one small datagram there and back.
func BenchmarkTunnelRoundTrip(b *testing.B) {
	x := newTunnel(b, outerA, outerB, gcm128)
	var server, client *net.UDPConn
	var err error
	x.b.ns.do(func() {
		server, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(siteB.Addr(), 0)))
	})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	x.a.ns.do(func() { client, err = net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr)) })
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 64)
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := client.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
