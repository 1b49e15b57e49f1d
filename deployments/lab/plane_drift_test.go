package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// drifts has somebody else change what a plane set up in the kernel. It is as it was
// again, and told.
func drifts(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(*lab.Namespace) error
		want string
	}{
		"policies are flushed": {func(ns *lab.Namespace) error {
			_, err := ns.Run(t.Context(), "ip", "xfrm", "policy", "flush")
			return err
		}, "3 policies were gone"},
		"a policy is deleted": {func(*lab.Namespace) error {
			out, err := outboundPolicy()
			if err == nil {
				err = netlink.XfrmPolicyDel(out)
			}
			return err
		}, "1 policies were gone"},
		"a policy is made to let all pass": {func(*lab.Namespace) error {
			out, err := outboundPolicy()
			if err == nil {
				out.Tmpls = nil
				err = netlink.XfrmPolicyUpdate(out)
			}
			return err
		}, "1 policies were changed"},
		"a policy is added in the plane's name": {func(*lab.Namespace) error {
			out, err := outboundPolicy()
			if err == nil {
				out.Dst.IP[2]++
				err = netlink.XfrmPolicyAdd(out)
			}
			return err
		}, "1 policies were too many"},
	} {
		t.Run(name, func(t *testing.T) {
			pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
			tap := tapWire(t, hosts[1])
			sas := childSAs(t, pair, "aes128gcm16-esn")
			mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
			mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB}, dataplane.InstallSA{SA: sas.outB})
			passesClear(t, "at first", pair.A.Send, pair.B.Received, false)
			before := policiesOf(t, hosts[0])
			if err := hosts[0].Do(func() error { return tt.harm(hosts[0]) }); err != nil {
				t.Fatal(err)
			}
			wantDrift(t, pair.A.Plane, tt.want)
			if after := policiesOf(t, hosts[0]); !slices.Equal(after, before) {
				t.Errorf("policies %q, want %q", after, before)
			}
			passesClear(t, "afterwards", pair.A.Send, pair.B.Received, false)
			passesClear(t, "afterwards", pair.B.Send, pair.A.Received, true)
			tap.mu.Lock()
			defer tap.mu.Unlock()
			if tap.clear != 0 {
				t.Errorf("%d packets were in clear", tap.clear)
			}
		})
	}
	t.Run("SAs are flushed", statesFlushed)
}

// statesFlushed: an SA whose last sequence number is not known is over. The policies go on
// to protect, and what is to be sent waits for another one.
func statesFlushed(t *testing.T) {
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	sas := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB})
	if _, err := hosts[0].Run(t.Context(), "ip", "xfrm", "state", "flush"); err != nil {
		t.Fatal(err)
	}
	wantDrift(t, pair.A.Plane, "2 SAs were gone")
	over := map[dataplane.Direction]bool{}
	for len(over) < 2 {
		select {
		case ev := <-pair.A.Plane.Events():
			if ev.Kind == dataplane.HardExpire {
				over[ev.Direction] = true
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("of the two SAs that are gone %v are told to be over", over)
		}
	}
	mustApply(t, pair.A.Plane, removal(sas.outA), removal(sas.inA))
	if err := hosts[0].Do(func() error {
		_, err := hosts[0].Run(t.Context(), "ip", "xfrm", "state", "flush") // that which packets wait by
		return err
	}); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "another place to wait", func() bool { return xfrmObjects(t, hosts[0]) == 2 })
	next := successorSAs(t, pair, "aes128gcm16-esn", sas)
	mustApply(t, pair.B.Plane, dataplane.InstallSA{SA: next.inB})
	if err := pair.A.Send(clearPacket()); err != nil {
		t.Fatal(err)
	}
	mustApply(t, pair.A.Plane, dataplane.InstallSA{SA: next.outA})
	waitUntil(t, "the packet that waited", func() bool { return countersOf(t, pair.B.Plane, next.inB).Packets == 1 })
}

// wantDrift waits for a drift of what a plane set up.
func wantDrift(t *testing.T, p dataplane.Plane, want string) {
	t.Helper()
	select {
	case d := <-p.(dataplane.DriftingPlane).Drifts():
		if !d.Repaired || !strings.Contains(d.Message, want) {
			t.Errorf("told %+v, want %q", d, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no drift is told, want %q", want)
	}
}

// outboundPolicy is one of the namespace at hand.
func outboundPolicy() (*netlink.XfrmPolicy, error) {
	policies, err := netlink.XfrmPolicyList(netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(policies, func(p netlink.XfrmPolicy) bool { return p.Dir == netlink.XFRM_DIR_OUT })
	if i < 0 {
		return nil, fmt.Errorf("no outbound policy among %d", len(policies))
	}
	return &policies[i], nil
}

// policiesOf are those of a host, but for those of sockets.
func policiesOf(t *testing.T, host *lab.Namespace) (all []string) {
	t.Helper()
	if err := host.Do(func() error {
		policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		for _, p := range policies {
			if p.Dir <= netlink.XFRM_DIR_FWD {
				p.Index = 0
				all = append(all, p.String())
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}
