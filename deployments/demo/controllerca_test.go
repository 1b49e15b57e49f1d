package main

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// controllerAuthorityReplaced replaces the authority of the controller itself: an edge that
// was off until the new one issued gets in and learns of it, and when the old one was dropped
// an edge that starts again finds its controller.
func (f *fleetTest) controllerAuthorityReplaced() {
	const name = "certificateAuthorities/controller"
	get := func() *swanherdv1.CertificateAuthority {
		a, err := f.certificates().GetCertificateAuthority(f.ctx, &swanherdv1.GetCertificateAuthorityRequest{Name: name})
		if err != nil {
			f.Fatal(err)
		}
		return a
	}
	force := func(phase swanherdv1.CertificateAuthority_Phase) {
		if _, err := f.certificates().ForceCertificateAuthority(f.ctx, &swanherdv1.ForceCertificateAuthorityRequest{Name: name, Phase: phase}); err != nil {
			f.Fatal(err)
		}
	}
	before, oslo := get().GetPin(), f.site("oslo")
	traffic, rest := f.traffic("berlin", "lima"), f.offline()+1
	oslo.agent.Kill()
	oslo.agent = nil // expected to be gone
	f.await("oslo to be gone", func() bool { return f.offline() == rest })
	if _, err := f.certificates().RotateCertificateAuthority(f.ctx, &swanherdv1.RotateCertificateAuthorityRequest{
		Name: name, Overlap: durationpb.New(0),
	}); err != nil {
		f.Fatal(err)
	}
	all := get().GetRotation().GetEdges()
	waitsFor := func(edges int32) func() bool {
		return func() bool { r := get().GetRotation(); return r != nil && r.GetEdges()-r.GetDone() == edges }
	}
	f.await("the edges that are connected to trust both authorities", waitsFor(rest))
	force(swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING)
	if a := get(); a.GetPin() == before || a.GetRotation().GetOtherPin() != before {
		f.Errorf("authority is %v", a)
	}
	if err := f.runEdge(oslo); err != nil {
		f.Fatal(err)
	}
	f.await("oslo, which knows only the old authority, to get in and learn of the new one", waitsFor(rest-1))
	if rest > 1 {
		force(swanherdv1.CertificateAuthority_PHASE_REISSUING)
	}
	f.await("the old authority to be dropped", func() bool { return get().GetRotation() == nil })
	kept := func(s *site) []byte {
		b, err := os.ReadFile(filepath.Join(f.dir, s.name, "identity", "controller-roots.crt"))
		if err != nil {
			f.Fatal(err)
		}
		block, more := pem.Decode(b)
		if block == nil || len(bytes.TrimSpace(more)) > 0 {
			return nil // both
		}
		return pem.EncodeToMemory(block)
	}
	for _, s := range f.world.sites {
		f.await(s.name+" to keep the new authority alone", func() bool { return string(kept(s)) == get().GetCertificate() })
	}
	sent, received := traffic.end()
	if received != sent || sent == 0 {
		f.Errorf("%d of %d packets arrived while the controller's authority was replaced", received, sent)
	}
	oslo.agent.Kill()
	if err := f.runEdge(oslo); err != nil {
		f.Fatal(err)
	}
	f.await("oslo to find the controller by the new authority alone", func() bool { return f.offline() == rest-1 && f.up() == 6 })
	f.Logf("%d packets, %d edges", sent, all)
}

// offline is how many edges with a certificate have no session.
func (f *fleetTest) offline() int32 {
	edges, err := f.topology.ListEdges(f.ctx, &swanherdv1.ListEdgesRequest{Parent: network})
	if err != nil {
		f.Fatal(err)
	}
	return int32(len(edges.GetEdges()) - f.connected())
}
