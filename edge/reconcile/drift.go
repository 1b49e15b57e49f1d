package reconcile

import (
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxDrift bounds how many differences one report names.
const maxDrift = 10

// lookForDrift says how the host differs from what it was brought to last.
func (r *Reconciler) lookForDrift() []string {
	var drift []string
	for _, at := range r.places {
		if at.routing == nil {
			return nil
		}
		here, err := at.Host.Drift(at.Interface, r.mtu, at.routing.Routes, at.routing.Default)
		if err != nil {
			return []string{at.wrap(err).Error()}
		}
		for _, text := range here {
			if at.segment != "" {
				text = "segment " + at.segment + ": " + text
			}
			drift = append(drift, text)
		}
	}
	if more := len(drift) - maxDrift; more > 0 {
		drift = append(drift[:maxDrift:maxDrift], "and more")
	}
	return drift
}

// tellDrift tells of a drift and whether it is mended; of one that cannot be, once.
func (r *Reconciler) tellDrift(drift []string, failed error) {
	report := &swanherdv1.DriftReport{
		Kind: swanherdv1.DriftReport_KIND_REPAIRED, Subject: "interface and routes",
		Message: strings.Join(drift, "; "), Time: timestamppb.Now(),
	}
	if left := r.lookForDrift(); len(left) > 0 {
		report.Kind, report.Message = swanherdv1.DriftReport_KIND_UNREPAIRABLE, strings.Join(left, "; ")
		if failed != nil {
			report.Message += ": " + failed.Error()
		}
		if report.Message == r.drift {
			return
		}
		r.drift = report.Message
	} else {
		if report.Message == "" {
			report.Message = r.drift // it could not be repaired before
		}
		r.drift = ""
	}
	r.cfg.Logger.Warn("the host was not as it was left", "repaired", report.GetKind() == swanherdv1.DriftReport_KIND_REPAIRED, "drift", report.GetMessage())
	if r.cfg.Drifted != nil {
		r.cfg.Drifted(report)
	}
}
