package model

import (
	"fmt"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// SeveralPaths says whether two edges of a mesh may have more than one tunnel.
func SeveralPaths(m *swanherdv1.Mesh) bool {
	switch m.GetPaths().GetPairing() {
	case swanherdv1.MeshPaths_PAIRING_SAME_CLASS, swanherdv1.MeshPaths_PAIRING_ALL:
		return true
	}
	return false
}

// paths checks that the edges of a mesh that wants several paths can choose among them.
func (v *validator) paths(m *swanherdv1.Mesh) {
	if !SeveralPaths(m) {
		if m.GetPaths().GetMaxPaths() != 0 {
			v.add(m.GetName(), "paths.max_paths", "is for meshes of several paths, and this one has the preferred one alone",
				"set paths.pairing to PAIRING_SAME_CLASS or PAIRING_ALL, or leave max_paths out")
		}
		return
	}
	profile, ok := v.t.Profiles.Get(m.GetProfile())
	if !ok || !profile.Value.GetProbing().GetDisabled() {
		return
	}
	if _, asked := v.fields[profile.Name]; asked {
		v.add(profile.Name, "probing.disabled", fmt.Sprintf("disables the probes by which edges choose among the paths of %s", v.called(m.GetName())),
			"enable probing, or have the mesh use another profile or PAIRING_PREFERRED")
		return
	}
	v.add(m.GetName(), "paths.pairing", fmt.Sprintf("asks for several paths, among which edges choose by probes, and %s disables these", profile.Name),
		"enable probing in the profile, use another one, or set paths.pairing to PAIRING_PREFERRED")
}
