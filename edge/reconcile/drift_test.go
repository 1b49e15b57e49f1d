package reconcile

import (
	"errors"
	"strings"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What somebody else did to the host is mended and told; what cannot be mended is told once,
// and once more when it is; what the edge does itself is not told.
func TestDrift(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	h.drift = []string{"left by an agent before"}
	if err := r.Apply(goodIntent()); err != nil {
		t.Fatal(err)
	}
	if err := r.Resync(); err != nil || len(h.drifts) > 0 {
		t.Fatalf("without a drift %v is told, %v", h.drifts, err)
	}
	told := func(kind swanherdv1.DriftReport_Kind, words ...string) {
		t.Helper()
		_ = r.Resync()
		if len(h.drifts) != 1 || h.drifts[0].GetKind() != kind {
			t.Fatalf("told %v, want one of %v", h.drifts, kind)
		}
		for _, w := range words {
			if !strings.Contains(h.drifts[0].GetMessage(), w) {
				t.Errorf("told %q, want %q in it", h.drifts[0].GetMessage(), w)
			}
		}
		h.drifts = nil
	}
	h.drift = []string{"route 10.2.0.0/16 was gone", "interface swan0 was down"}
	told(swanherdv1.DriftReport_KIND_REPAIRED, "10.2.0.0/16", "swan0 was down")
	if _ = r.Resync(); len(h.drifts) > 0 {
		t.Errorf("told again: %v", h.drifts)
	}

	h.drift, h.stays, h.rejectRoutes = []string{"route 10.2.0.0/16 was gone"}, true, errors.New("not permitted")
	told(swanherdv1.DriftReport_KIND_UNREPAIRABLE, "10.2.0.0/16", "not permitted")
	h.rejectRoutes = errors.New("not permitted")
	if _ = r.Resync(); len(h.drifts) > 0 {
		t.Errorf("told again: %v", h.drifts)
	}
	h.drift = nil // by itself
	told(swanherdv1.DriftReport_KIND_REPAIRED, "10.2.0.0/16")
	if _ = r.Resync(); len(h.drifts) > 0 {
		t.Errorf("told again: %v", h.drifts)
	}
}
