package main

import (
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// cutOff has oslo claim the controller's address, which is valid: the other edges lead
// what is for the controller into the tunnel, do not hear from it, and go back by
// themselves.
func (f *fleetTest) cutOff() {
	before := f.spis()
	mend := f.osloClaims(controllerAddr)
	f.await("every edge but oslo to go back", func() bool {
		reverted := f.inState(swanherdv1.IntentState_INTENT_STATE_REVERTED)
		return len(reverted) == 3 && !slices.Contains(reverted, "oslo") && f.connected() == 4
	})
	f.await("the tunnels to be up", func() bool { return f.up() == 6 })
	f.ping(f.site("berlin"), f.site("oslo"))
	f.ping(f.site("lima"), f.site("tokyo"))
	for name, spi := range f.spis() {
		if !strings.Contains(name, "oslo") && before[name] != spi {
			f.Errorf("%s was negotiated anew, and the change was not about it", name)
		}
	}
	mend()
	f.settled()
}

// osloClaims has oslo's site claim an address; mend takes that back.
func (f *fleetTest) osloClaims(addr netip.Addr) (mend func()) {
	change := func(prefixes ...string) {
		_, err := f.topology.UpdateSite(f.ctx, &swanherdv1.UpdateSiteRequest{
			Site:       &swanherdv1.Site{Name: network + "/sites/oslo", Prefixes: prefixes},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"prefixes"}},
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	var good []string
	for _, s := range f.listSites() {
		if s.GetName() == network+"/sites/oslo" {
			good = s.GetPrefixes()
		}
	}
	change(append(slices.Clone(good), netip.PrefixFrom(addr, addr.BitLen()).String())...)
	return func() { change(good...) }
}

// settled waits until every edge runs and keeps what is planned.
func (f *fleetTest) settled() {
	f.Helper()
	f.await("every edge to run and keep what is planned", func() bool {
		return len(f.inState(swanherdv1.IntentState_INTENT_STATE_CONFIRMED)) == 4 && f.up() == 6
	})
}

// tunnelsLost has oslo claim tokyo's address on the WAN: berlin and lima lead what is for
// tokyo into their tunnels with oslo, which is the end of those with tokyo, and of no
// session. These are critical, so the three go back, and all is as before, though oslo
// keeps the change.
func (f *fleetTest) tunnelsLost() {
	critical := func(critical bool) {
		_, err := f.topology.UpdateMesh(f.ctx, &swanherdv1.UpdateMeshRequest{
			Mesh:       &swanherdv1.Mesh{Name: network + "/meshes/all", Critical: critical},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"critical"}},
		})
		if err != nil {
			f.Fatal(err)
		}
		f.settled()
	}
	critical(true)
	before := f.spis()
	mend := f.osloClaims(f.site("tokyo").wanAddr)
	f.await("lima to be seen waiting for tokyo", func() bool {
		s := f.edgeStatus("lima")
		return s.GetIntentState() == swanherdv1.IntentState_INTENT_STATE_APPLIED && slices.Equal(s.GetAwaitedTunnels(), []string{network + "/tunnels/lima--tokyo"})
	})
	f.await("every edge but oslo to go back", func() bool {
		reverted := f.inState(swanherdv1.IntentState_INTENT_STATE_REVERTED)
		return len(reverted) == 3 && !slices.Contains(reverted, "oslo") && slices.Contains(f.inState(swanherdv1.IntentState_INTENT_STATE_CONFIRMED), "oslo")
	})
	if words := f.edgeStatus("lima").GetIntentError(); !strings.Contains(words, "(lima--tokyo)") {
		f.Errorf("lima says %q", words)
	}
	f.await("the tunnels to be up", func() bool { return f.up() == 6 })
	f.ping(f.site("berlin"), f.site("tokyo"))
	f.ping(f.site("lima"), f.site("tokyo"))
	f.ping(f.site("oslo"), f.site("tokyo"))
	for name, spi := range f.spis() {
		if !strings.Contains(name, "oslo") && before[name] != spi {
			f.Errorf("%s was negotiated anew: it was down until its peer was missed", name)
		}
	}
	mend()
	critical(false)
}

func (f *fleetTest) edgeStatus(id string) *swanherdv1.EdgeStatus {
	e, err := f.topology.GetEdge(f.ctx, &swanherdv1.GetEdgeRequest{Name: network + "/edges/" + id})
	if err != nil {
		f.Fatal(err)
	}
	return e.GetStatus()
}
