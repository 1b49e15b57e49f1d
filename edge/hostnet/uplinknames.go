package hostnet

import (
	"fmt"
	"slices"
	"time"

	"github.com/swanherd/swanherd/edge/state"
)

// forgetUplink is how long an uplink that was found may be away until its name is free. Until
// then it is listed without addresses, so that tunnels of it wait for it to come back, and who
// took it away for good has them told to be down.
const forgetUplink = 7 * 24 * time.Hour

// foundUplink is an interface with a default route.
type foundUplink struct{ name, hardwareAddress string }

// nameUplinks gives each of the interfaces found its name and returns all that are known
// then: those that were known first, in their order, and new ones behind them with the
// lowest free wan1, wan2 and so on.
//
// An interface is the one that it was by its hardware address and name, else by its
// hardware address, if no other one has that, else by its name: systems number interfaces
// as they appear, and some make an address up each time.
func nameUplinks(known []state.KnownUplink, found []foundUplink, now time.Time) []state.KnownUplink {
	today := now.UTC().Truncate(24 * time.Hour)
	out, left := slices.Clone(known), slices.Clone(found)
	taken := make([]bool, len(out))
	match := func(is func(k state.KnownUplink, f foundUplink) bool) {
		for i := range out {
			at := slices.IndexFunc(left, func(f foundUplink) bool { return !taken[i] && is(out[i], f) })
			if at < 0 {
				continue
			}
			taken[i], out[i].Seen = true, today
			out[i].Interface, out[i].HardwareAddress = left[at].name, left[at].hardwareAddress
			left = slices.Delete(left, at, at+1)
		}
	}
	single := func(address string) bool {
		with := slices.DeleteFunc(slices.Clone(found), func(f foundUplink) bool { return f.hardwareAddress != address })
		before := slices.DeleteFunc(slices.Clone(known), func(k state.KnownUplink) bool { return k.HardwareAddress != address })
		return address != "" && len(with) == 1 && len(before) == 1
	}
	match(func(k state.KnownUplink, f foundUplink) bool {
		return k.Interface == f.name && k.HardwareAddress == f.hardwareAddress
	})
	match(func(k state.KnownUplink, f foundUplink) bool {
		return k.HardwareAddress == f.hardwareAddress && single(f.hardwareAddress)
	})
	match(func(k state.KnownUplink, f foundUplink) bool { return k.Interface == f.name })
	out, taken = forget(out, taken, today, len(left))
	for _, f := range left {
		out = append(out, state.KnownUplink{Name: freeName(out), Interface: f.name, HardwareAddress: f.hardwareAddress, Seen: today})
	}
	return out
}

// forget drops what is away for too long, and if there is no room for more others that are
// not there, the longest away first.
func forget(known []state.KnownUplink, there []bool, today time.Time, more int) ([]state.KnownUplink, []bool) {
	drop := func(i int) { known, there = slices.Delete(known, i, i+1), slices.Delete(there, i, i+1) }
	for i := len(known) - 1; i >= 0; i-- {
		if !there[i] && today.Sub(known[i].Seen) > forgetUplink {
			drop(i)
		}
	}
	for len(known)+more > maxApart {
		oldest := -1
		for i := range known {
			if !there[i] && (oldest < 0 || known[i].Seen.Before(known[oldest].Seen)) {
				oldest = i
			}
		}
		if oldest < 0 {
			break
		}
		drop(oldest)
	}
	return known, there
}

// freeName is the lowest name that no uplink has.
func freeName(known []state.KnownUplink) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("wan%d", n)
		if !slices.ContainsFunc(known, func(k state.KnownUplink) bool { return k.Name == name }) {
			return name
		}
	}
}
