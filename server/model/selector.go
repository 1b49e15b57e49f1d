package model

import (
	"cmp"
	"slices"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Selects says whether the selector picks the site: because it picks all, or
// names it, or because the site carries every label that the selector asks for.
func Selects(s *swanherdv1.SiteSelector, site *swanherdv1.Site) bool {
	if s.GetAll() || slices.Contains(s.GetSites(), site.GetName()) {
		return true
	}
	return len(s.GetMatchLabels()) > 0 && carries(site.GetLabels(), s.GetMatchLabels())
}

// defaultRegionLabel is the label that says a site's region, unless a mesh says
// another.
const defaultRegionLabel = "region"

// RegionOf is the region of a site in a regional mesh; empty when it has none.
func RegionOf(m *swanherdv1.Regional, site *swanherdv1.Site) string {
	return site.GetLabels()[regionLabel(m)]
}

func regionLabel(m *swanherdv1.Regional) string {
	return cmp.Or(m.GetRegionLabel(), defaultRegionLabel)
}
