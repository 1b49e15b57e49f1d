package alert

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Defaults are the rules that a new controller has. They are rules as any others: who
// wants them otherwise changes or deletes them.
func Defaults() []*swanherdv1.AlertRule {
	const day = 24 * time.Hour
	return []*swanherdv1.AlertRule{{
		Name:          AllNetworks + "/alertRules/edge-offline",
		DisplayName:   "Edge without a session",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING,
		PendingFor:    durationpb.New(2 * time.Minute),
		KeepFiringFor: durationpb.New(time.Minute),
	}, {
		Name:          AllNetworks + "/alertRules/site-isolated",
		DisplayName:   "Site without a tunnel that is up",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_SITE_ISOLATED,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL,
		PendingFor:    durationpb.New(time.Minute),
		KeepFiringFor: durationpb.New(time.Minute),
	}, {
		Name:          AllNetworks + "/alertRules/mass-loss",
		DisplayName:   "Many edges lost at once",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_MASS_LOSS,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL,
		PendingFor:    durationpb.New(time.Minute),
		KeepFiringFor: durationpb.New(time.Minute),
	}, {
		Name:          AllNetworks + "/alertRules/assertion-broken",
		DisplayName:   "Assertion that does not hold",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_ASSERTION_BROKEN,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL,
		PendingFor:    durationpb.New(time.Minute),
		KeepFiringFor: durationpb.New(time.Minute),
	}, {
		Name:          AllNetworks + "/alertRules/edge-clock",
		DisplayName:   "Edge whose clock is wrong",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_CLOCK_WRONG,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING,
		PendingFor:    durationpb.New(2 * time.Minute),
		KeepFiringFor: durationpb.New(time.Minute),
	}, {
		Name:          AllNetworks + "/alertRules/certificate-expiring",
		DisplayName:   "Certificate that is not renewed",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_CERTIFICATE_EXPIRING,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING,
		ExpiresWithin: durationpb.New(14 * day),
	}, {
		Name:          AllNetworks + "/alertRules/authority-expiring",
		DisplayName:   "Authority that is to be replaced",
		Condition:     swanherdv1.AlertCondition_ALERT_CONDITION_AUTHORITY_EXPIRING,
		Severity:      swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL,
		ExpiresWithin: durationpb.New(30 * day),
	}, {
		Name:        AllNetworks + "/alertRules/authority-unsigned",
		DisplayName: "Authority that an external one does not sign",
		Condition:   swanherdv1.AlertCondition_ALERT_CONDITION_AUTHORITY_UNSIGNED,
		Severity:    swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING,
		PendingFor:  durationpb.New(5 * time.Minute),
	}}
}
