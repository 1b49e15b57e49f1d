package lab

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// Two hosts behind a router reach each other; a stopped program is gone.
func TestNetnsPingAcrossARouter(t *testing.T) {
	Require(t)
	n := New()
	defer n.Close()
	hosts := map[string]*Namespace{}
	for _, name := range []string{"a", "router", "b"} {
		ns, err := n.Add(name)
		if err != nil {
			t.Fatal(err)
		}
		hosts[name] = ns
	}
	prefix := netip.MustParsePrefix
	for _, l := range [][2]End{
		{{hosts["a"], "eth0", []netip.Prefix{prefix("192.0.2.2/30")}}, {hosts["router"], "eth0", []netip.Prefix{prefix("192.0.2.1/30")}}},
		{{hosts["b"], "eth0", []netip.Prefix{prefix("192.0.2.6/30")}}, {hosts["router"], "eth1", []netip.Prefix{prefix("192.0.2.5/30")}}},
	} {
		if err := n.Link(l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	addr := netip.MustParseAddr
	if err := hosts["a"].Route(prefix("0.0.0.0/0"), addr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if err := hosts["b"].Route(prefix("0.0.0.0/0"), addr("192.0.2.5")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := hosts["a"].Ping(ctx, addr("192.0.2.2"), addr("192.0.2.6"), 3); err != nil || r.Received != 3 {
		t.Errorf("ping across the router: %+v, %v", r, err)
	}
	if err := hosts["router"].Down("eth1"); err != nil {
		t.Fatal(err)
	}
	if _, err := hosts["a"].Ping(ctx, addr("192.0.2.2"), addr("192.0.2.6"), 1); err == nil {
		t.Error("a ping over a link that is down was answered")
	}
}

func TestNetnsProgramStops(t *testing.T) {
	Require(t, "sh")
	n := New()
	defer n.Close()
	ns, err := n.Add("host")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ns.Start(nil, []string{"WORD=hello"}, "sh", "-c", "echo $WORD")
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := p.Output(); got != "hello\n" {
		t.Errorf("output is %q, want hello", got)
	}
	p, err = ns.Start(nil, nil, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(10 * time.Second); err == nil {
		t.Error("a program ended by a signal reports success")
	}
	if _, err := ns.Start(nil, nil, "/nonexistent/program"); err == nil {
		t.Error("a program that does not exist was started")
	}
}
