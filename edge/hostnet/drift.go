package hostnet

import (
	"fmt"
	"net"
	"slices"
)

// Drift says how an interface and the edge's routes through it differ from what SetLink,
// with that MTU unless it is 0, and SetRoutes made of them: a sentence for each
// difference, none if it is all as it was. What the kernel chooses it may choose otherwise.
func (h *Host) Drift(name string, mtu int, routes []Route) ([]string, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	var out []string
	if has := link.Attrs().MTU; mtu != 0 && has != mtu {
		out = append(out, fmt.Sprintf("interface %s had an MTU of %d, not %d", name, has, mtu))
	}
	if mtu != 0 && link.Attrs().Flags&net.FlagUp == 0 {
		out = append(out, fmt.Sprintf("interface %s was down", name))
	}
	have, err := h.own(link)
	if err != nil {
		return nil, err
	}
	for _, want := range slices.SortedFunc(slices.Values(routes), compareRoutes) {
		got, ok := have[want.Prefix]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("route %s was gone", want.Prefix))
		case want.Source.IsValid() && got.Source != want.Source:
			out = append(out, fmt.Sprintf("route %s had the source %s, not %s", want.Prefix, got.Source, want.Source))
		}
		delete(have, want.Prefix)
	}
	for prefix := range have {
		out = append(out, fmt.Sprintf("route %s was too many", prefix))
	}
	return out, nil
}
