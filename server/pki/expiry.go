package pki

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// expiryNotices are how long before the end of a certificate that is not renewed it
// is told of: once at each.
var expiryNotices = []time.Duration{30 * day, 14 * day, 7 * day, day, 0}

const day = 24 * time.Hour

// An Expiry is the end of what nobody renewed yet.
type Expiry struct {
	// Resource is the edge or the authority.
	Resource string
	// What is `control`, `ike` or `authority`.
	What    string
	Expires time.Time
}

// Network that the resource is of; store.NoNetwork for the controller's authority.
func (e Expiry) network() model.NetworkName {
	n, err := model.NetworkOf(e.Resource)
	if err != nil {
		return store.NoNetwork
	}
	return n
}

// Expiries are the ends of the newest certificate of each purpose of each edge, and of
// the authorities, those first that end first.
func Expiries(snap *store.Snapshot) []Expiry {
	var out []Expiry
	for row := range snap.EdgeIdentities.All() {
		newest := map[storev1.IssuedCertificate_Purpose]time.Time{}
		for _, c := range row.Value.GetCertificates() {
			newest[c.GetPurpose()] = c.GetExpireTime().AsTime() // newest last
		}
		for purpose, at := range newest {
			out = append(out, Expiry{row.Name, purposeWords[purpose], at})
		}
	}
	for row := range snap.Authorities.All() {
		if c, err := x509.ParseCertificate(row.Value.GetCertificate()); err == nil {
			out = append(out, Expiry{authorityResource(row.Name), "authority", c.NotAfter})
		}
	}
	slices.SortFunc(out, func(a, b Expiry) int {
		return cmp.Or(a.Expires.Compare(b.Expires), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.What, b.What))
	})
	return out
}

var purposeWords = map[storev1.IssuedCertificate_Purpose]string{
	storev1.IssuedCertificate_PURPOSE_CONTROL: "control",
	storev1.IssuedCertificate_PURPOSE_IKE:     "ike",
}

// authorityResource is what the API calls an authority.
func authorityResource(name string) string {
	if network, ok := cutAuthority(name); ok {
		return network + "/certificateAuthority"
	}
	return name
}

func cutAuthority(name string) (string, bool) {
	const prefix = "certificateAuthorities/networks/"
	if len(name) <= len(prefix) || name[:len(prefix)] != prefix {
		return "", false
	}
	return name[len("certificateAuthorities/"):], true
}

// Notice says that the certificate has come nearer to its end than one of the notices
// between two looks, and how near; of several, the nearest. A certificate that is
// not good for longer than a notice, as those of control channels, gets none of it.
func (e Expiry) Notice(last, now time.Time) (left time.Duration, due bool) {
	for _, before := range expiryNotices {
		at := e.Expires.Add(-before)
		if e.What == "control" && before >= ControlLifetime {
			continue
		}
		if at.After(last) && !at.After(now) {
			left, due = before, true
		}
	}
	return left, due
}

// event is what the event log says of it.
func (e Expiry) event(left time.Duration, now time.Time) *swanherdv1.Event {
	what := map[string]string{
		"control": "its certificate for the controller", "ike": "its IKE certificate", "authority": "the authority's certificate",
	}[e.What]
	message := fmt.Sprintf("%s ends in less than %d days, on %s, and was not renewed", what, int(left/day), e.Expires.UTC().Format(time.DateOnly))
	remedy := "; look why the edge does not reach the controller, or replace it"
	if e.What == "authority" {
		remedy = "; replace it with `swanherd ca rotate`"
		if e.Resource == model.ControllerAuthority {
			remedy = "; replace it with `swanherd ca rotate --controller`"
		}
	}
	if left == 0 {
		message = fmt.Sprintf("%s ended on %s", what, e.Expires.UTC().Format(time.DateOnly))
	}
	return &swanherdv1.Event{
		Time: timestamppb.New(now), Kind: swanherdv1.Event_KIND_TRANSITION, Actor: "system",
		Resource: e.Resource, Action: "certificate.expiring", Message: message + remedy,
	}
}

// ExpiryWatch tells in the event log what ends soon. One replica runs it.
type ExpiryWatch struct {
	Store *store.Store
	// Failed is told of what went wrong; it is tried again.
	Failed func(error)
}

const (
	expiryInterval = time.Hour
	// maxNotices is how many events go into one transaction.
	maxNotices = 100
)

// Run looks until ctx ends.
func (w *ExpiryWatch) Run(ctx context.Context) {
	t := time.NewTicker(expiryInterval)
	defer t.Stop()
	for now := time.Now(); ; {
		if err := w.Look(ctx, now); err != nil && ctx.Err() == nil {
			w.Failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case now = <-t.C:
		}
	}
}

// expiryCheckName names the record of the last look that had something to tell.
const expiryCheckName = "expiryChecks/last"

// Look tells what has come near to its end since the last look that had something to
// tell, and notes that: what was told is not told again, also by another replica. A
// look that has nothing to tell writes nothing.
func (w *ExpiryWatch) Look(ctx context.Context, now time.Time) error {
	row, err := w.Store.ExpiryChecks.Get(ctx, expiryCheckName)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	last := time.Time{}
	if row.Revision != 0 {
		last = row.Value.GetCheckTime().AsTime()
	}
	var events []Expiry
	left := map[Expiry]time.Duration{}
	for _, e := range Expiries(w.Store.Snapshot()) {
		if d, due := e.Notice(last, now); due {
			left[e] = d
			events = append(events, e)
		}
	}
	for len(events) > 0 {
		t, n := w.Store.Txn(), min(len(events), maxNotices)
		for _, e := range events[:n] {
			w.Store.AppendEventIn(t, e.network(), e.event(left[e], now))
		}
		if events = events[n:]; len(events) == 0 {
			w.checkedIn(t, row, now)
		}
		if _, err := t.Commit(ctx); err != nil {
			return fmt.Errorf("tell which certificates end: %w", err)
		}
	}
	return nil
}

func (w *ExpiryWatch) checkedIn(t *store.Txn, row model.Row[*storev1.ExpiryCheck], now time.Time) {
	check := &storev1.ExpiryCheck{CheckTime: timestamppb.New(now)}
	if row.Revision == 0 {
		w.Store.ExpiryChecks.CreateIn(t, expiryCheckName, check)
		return
	}
	w.Store.ExpiryChecks.UpdateIn(t, expiryCheckName, check, row.Revision)
}

// ExpiryCollector gives Prometheus when certificates end: the first of each kind in
// each network, and how many have not long to go. It does not name edges: a fleet has
// too many for that.
type ExpiryCollector struct{ Snapshot func() *store.Snapshot }

var (
	expiryFirst = prometheus.NewDesc("swanherd_certificate_first_expiry_timestamp_seconds",
		"When the first certificate in use ends, in seconds of Unix time, by network and purpose.", []string{"network", "purpose"}, nil)
	expirySoon = prometheus.NewDesc("swanherd_certificates_expiring",
		"Certificates in use that end within a week, or have ended, by network and purpose.", []string{"network", "purpose"}, nil)
)

// Describe implements prometheus.Collector.
func (c ExpiryCollector) Describe(out chan<- *prometheus.Desc) {
	out <- expiryFirst
	out <- expirySoon
}

// Collect implements prometheus.Collector.
func (c ExpiryCollector) Collect(out chan<- prometheus.Metric) {
	type key struct{ network, what string }
	first, soon := map[key]time.Time{}, map[key]int{}
	limit := time.Now().Add(7 * day)
	for _, e := range Expiries(c.Snapshot()) { // in the order of their ends
		k := key{e.network().Network, e.What}
		if _, seen := first[k]; !seen {
			first[k] = e.Expires
		}
		if e.Expires.Before(limit) {
			soon[k]++
		}
	}
	for k, at := range first {
		out <- prometheus.MustNewConstMetric(expiryFirst, prometheus.GaugeValue, float64(at.Unix()), k.network, k.what)
		out <- prometheus.MustNewConstMetric(expirySoon, prometheus.GaugeValue, float64(soon[k]), k.network, k.what)
	}
}
