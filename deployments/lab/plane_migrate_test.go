package lab_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestKernelMigrated has somebody else move an SA of ours in the kernel: it comes back,
// and goes on with its sequence numbers.
func TestKernelMigrated(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("with its policy", func(t *testing.T) { comesBack(t, migrate) })
}

// TestKernelStateMigrated does so by a request that newer kernels have, about the SA alone.
func TestKernelStateMigrated(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelNewDir, lab.TreeStrongSwan)
		return
	}
	t.Run("alone", func(t *testing.T) { comesBack(t, migrateState) })
}

func comesBack(t *testing.T, migrate func(source, destination netip.Addr) error) {
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	tap := tapWire(t, hosts[1])
	sas := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB})
	passesClear(t, "at first", pair.A.Send, pair.B.Received, false)
	if err := hosts[0].Do(func() error { return migrate(planeMoved, netip.MustParseAddr("192.0.2.9")) }); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the SA in its place", func() bool {
		var states []netlink.XfrmState
		err := hosts[0].Do(func() (err error) {
			states, err = netlink.XfrmStateList(netlink.FAMILY_ALL)
			return err
		})
		return err == nil && slices.ContainsFunc(states, func(s netlink.XfrmState) bool {
			return s.Src.Equal(planeOuter(0).Addr().AsSlice()) && s.Dst.Equal(planeOuter(1).Addr().AsSlice())
		})
	})
	// What comes now waits until the plane has done all of it.
	mustApply(t, pair.A.Plane, sas.policyA)
	passesClear(t, "afterwards", pair.A.Send, pair.B.Received, false)
	waitUntil(t, "the next sequence number on the wire", func() bool { return tap.last() == 2 })
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.repeated != 0 || tap.clear != 0 {
		t.Errorf("%d sequence numbers came twice, and %d packets were in clear", tap.repeated, tap.clear)
	}
}

// migrate has the kernel move the one outbound SA to other addresses: struct
// xfrm_userpolicy_id with a struct xfrm_user_migrate.
func migrate(source, destination netip.Addr) error {
	policies, err := netlink.XfrmPolicyList(netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(policies, func(p netlink.XfrmPolicy) bool { return p.Dir == netlink.XFRM_DIR_OUT })
	if i < 0 || len(policies[i].Tmpls) != 1 {
		return fmt.Errorf("no outbound policy among %d", len(policies))
	}
	p, used := policies[i], policies[i].Tmpls[0]
	id := nl.XfrmUserpolicyId{Dir: uint8(netlink.XFRM_DIR_OUT)}
	id.Sel.Family = unix.AF_INET
	for _, side := range []struct {
		to     *nl.XfrmAddress
		length *uint8
		from   *net.IPNet
	}{{&id.Sel.Saddr, &id.Sel.PrefixlenS, p.Src}, {&id.Sel.Daddr, &id.Sel.PrefixlenD, p.Dst}} {
		copy(side.to[:], side.from.IP.To4())
		ones, _ := side.from.Mask.Size()
		*side.length = uint8(ones)
	}
	var entry []byte
	for _, a := range [][]byte{used.Dst.To4(), used.Src.To4(), destination.AsSlice(), source.AsSlice()} {
		entry = append(entry, append(a, make([]byte, 16-len(a))...)...)
	}
	entry = append(entry, uint8(used.Proto), uint8(used.Mode), 0, 0)
	entry = binary.NativeEndian.AppendUint32(entry, uint32(used.Reqid))
	entry = binary.NativeEndian.AppendUint16(entry, unix.AF_INET)
	entry = binary.NativeEndian.AppendUint16(entry, unix.AF_INET)
	request := nl.NewNetlinkRequest(nl.XFRM_MSG_MIGRATE, unix.NLM_F_ACK)
	request.AddData(&id)
	request.AddData(nl.NewRtAttr(nl.XFRMA_MIGRATE, entry))
	request.AddData(nl.NewRtAttr(nl.XFRMA_IF_ID, nl.Uint32Attr(uint32(p.Ifid))))
	_, err = request.Execute(unix.NETLINK_XFRM, 0)
	return err
}

// migrateState has the kernel move the one outbound SA to other addresses: struct
// xfrm_user_migrate_state.
func migrateState(source, destination netip.Addr) error {
	states, err := netlink.XfrmStateList(netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(states, func(s netlink.XfrmState) bool { return s.SADir == netlink.XFRM_SA_DIR_OUT })
	if i < 0 {
		return fmt.Errorf("no outbound SA among %d", len(states))
	}
	s := states[i]
	address := func(b, a []byte) []byte { return append(append(b, a...), make([]byte, 16-len(a))...) }
	body := address(nil, s.Dst.To4())
	body = binary.BigEndian.AppendUint32(body, uint32(s.Spi))
	body = binary.NativeEndian.AppendUint16(body, unix.AF_INET)
	body = append(body, uint8(s.Proto), 0)
	body = address(address(body, destination.AsSlice()), source.AsSlice())
	body = append(body, make([]byte, nl.SizeofXfrmMark+nl.SizeofXfrmSelector)...)
	body = binary.NativeEndian.AppendUint32(body, uint32(s.Reqid))
	body = append(body, make([]byte, 4)...) // flags
	body = binary.NativeEndian.AppendUint32(body, unix.AF_INET)
	request := nl.NewNetlinkRequest(0x29, unix.NLM_F_ACK) // XFRM_MSG_MIGRATE_STATE
	request.AddRawData(body)
	_, err = request.Execute(unix.NETLINK_XFRM, 0)
	return err
}
