package server_test

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v3"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

// An edge is told in Welcome where to ask how it looks from outside, and is answered there.
func TestEdgesAreToldHowTheyLook(t *testing.T) {
	c := startController(t, func(cfg *server.Config) { cfg.STUNListen = "127.0.0.1:0" })
	c.apply()
	ports := c.s.Info().STUNPorts
	e := c.enrolled("berlin")
	stream, err := swanherdv1.NewEdgeControlServiceClient(e.dial(tls.Certificate{Certificate: e.chain, PrivateKey: e.control})).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{ProtocolVersion: 1, BootId: "b"}}}); err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if got := m.GetWelcome().GetStunPorts(); len(got) != 2 || !slices.Equal(got, ports) {
		t.Fatalf("the edge is told of ports %v, and there are %v", got, ports)
	}
	for _, port := range ports {
		conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("with room for an answer"))
		if _, err := conn.Write(request.Raw); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer := &stun.Message{Raw: make([]byte, 0, 1500)}
		if _, err := answer.ReadFrom(conn); err != nil {
			t.Fatal(err)
		}
		var mapped stun.XORMappedAddress
		if err := answer.Parse(&mapped); err != nil || mapped.Port != conn.LocalAddr().(*net.UDPAddr).Port {
			t.Errorf("%v: told %v, sent from %v", err, mapped, conn.LocalAddr())
		}
	}
}
