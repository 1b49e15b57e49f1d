package alert

import (
	"cmp"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

const (
	// AllNetworks is the network of rules about the whole fleet and of alerts that are
	// about none.
	AllNetworks = "networks/-"

	defaultExpiresWithin = 14 * 24 * time.Hour
	defaultMinPercent    = 30
	// minMassLoss is how many edges have to be lost before it is a mass, however large
	// their share is.
	minMassLoss = 3
)

// kind is what sort of resource a condition is about.
type kind int

const (
	ofNothing kind = iota
	ofEdges
	ofSites
	ofTunnels
	ofNetworks
	ofCertificates
	ofAuthorities
	ofController
	ofAssertions
	ofSignings // of networks' authorities by external ones
)

var kinds = map[swanherdv1.AlertCondition]kind{
	swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE:         ofEdges,
	swanherdv1.AlertCondition_ALERT_CONDITION_SITE_ISOLATED:        ofSites,
	swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_DOWN:          ofTunnels,
	swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_DEGRADED:      ofTunnels,
	swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_SLA_VIOLATED:  ofTunnels,
	swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OUT_OF_SYNC:     ofEdges,
	swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_REJECTED:        ofEdges,
	swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_REVERTED:        ofEdges,
	swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_CLOCK_WRONG:     ofEdges,
	swanherdv1.AlertCondition_ALERT_CONDITION_CERTIFICATE_EXPIRING: ofCertificates,
	swanherdv1.AlertCondition_ALERT_CONDITION_AUTHORITY_EXPIRING:   ofAuthorities,
	swanherdv1.AlertCondition_ALERT_CONDITION_MASS_LOSS:            ofNetworks,
	swanherdv1.AlertCondition_ALERT_CONDITION_REPLICA_LOST:         ofController,
	swanherdv1.AlertCondition_ALERT_CONDITION_ASSERTION_BROKEN:     ofAssertions,
	swanherdv1.AlertCondition_ALERT_CONDITION_AUTHORITY_UNSIGNED:   ofSignings,
}

// rule is an AlertRule that is in force.
type rule struct {
	*swanherdv1.AlertRule
	name     string
	revision int64
	network  string
	kind     kind
}

func newRule(row model.Row[*swanherdv1.AlertRule]) *rule {
	return &rule{
		AlertRule: row.Value, name: row.Name, revision: row.Revision,
		network: networkOf(row.Name), kind: kinds[row.Value.GetCondition()],
	}
}

// covers says whether the rule is about things of the network.
func (r *rule) covers(network string) bool { return r.network == AllNetworks || r.network == network }

func (r *rule) within() time.Duration {
	return cmp.Or(r.GetExpiresWithin().AsDuration(), defaultExpiresWithin)
}

func (r *rule) minPercent() uint32 { return cmp.Or(r.GetMinPercent(), defaultMinPercent) }

// selects says whether a site with these labels is one that the rule is about.
func (r *rule) selects(labels map[string]string) bool {
	for k, v := range r.GetMatchLabels() {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// Mistakes says what is wrong with a rule besides what its proto says: field and message.
func Mistakes(r *swanherdv1.AlertRule) map[string]string {
	out := map[string]string{}
	k := kinds[r.GetCondition()]
	if len(r.GetMatchLabels()) > 0 && (k == ofNetworks || k == ofController || k == ofAuthorities || k == ofAssertions || k == ofSignings) {
		out["match_labels"] = "is for conditions about edges, sites, tunnels and their certificates; leave it out"
	}
	if r.GetExpiresWithin() != nil && k != ofCertificates && k != ofAuthorities {
		out["expires_within"] = "is for CERTIFICATE_EXPIRING and AUTHORITY_EXPIRING; leave it out"
	}
	if r.GetMinPercent() != 0 && k != ofNetworks {
		out["min_percent"] = "is for MASS_LOSS; leave it out"
	}
	switch {
	case k != ofController && r.GetMinReplicas() != 0:
		out["min_replicas"] = "is for REPLICA_LOST; leave it out"
	case k == ofController && r.GetMinReplicas() == 0:
		out["min_replicas"] = "is needed for REPLICA_LOST: how many replicas there should be"
	}
	if k == ofController && networkOf(r.GetName()) != AllNetworks {
		out["condition"] = "is about the controller; make the rule one of networks/-"
	}
	return out
}

// networkOf is the network in a resource's name; AllNetworks where it has none.
func networkOf(resource string) string {
	n, err := model.NetworkOf(resource)
	if err != nil {
		return AllNetworks
	}
	return n.String()
}
