package server_test

import (
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/stepca"
	"github.com/swanherd/swanherd/server/stepca/stepcatest"
)

// subordinate is a network whose authority is below a real step-ca, with an edge.
type subordinate struct {
	*controller
	ca   *stepcatest.StepCA
	corp *stepca.Client
	edge *testEdge
}

// The authority of a network is put below a step-ca, and nobody carries anything. What that
// signed is replaced by itself when most of its life is over; while step-ca is away there is an
// alert, and nothing is lost, also if the controller restarts; when it is back that goes on.
func TestAuthorityBelowStepCA(t *testing.T) {
	s := &subordinate{ca: stepcatest.Start(t)}
	var err error
	if s.corp, err = stepca.New(s.ca.Settings("authorities")); err != nil {
		t.Fatal(err)
	}
	s.controller = startController(t, func(cfg *server.Config) { cfg.ExternalAuthorities = map[string]pki.Signer{"corp": s.corp} })
	s.apply()
	if _, err := s.alerts().UpdateAlertRule(t.Context(), &swanherdv1.UpdateAlertRuleRequest{AlertRule: &swanherdv1.AlertRule{
		Name: "networks/-/alertRules/authority-unsigned", PendingFor: durationpb.New(time.Second),
	}}); err != nil {
		t.Fatal(err)
	}
	s.edge = s.enrolled("berlin")
	s.edge.open()
	s.refusesOthers()

	s.rotate()
	s.renews()
	s.chainsToRoot()

	s.ca.Stop()
	request := s.rotate().GetRotation().GetCertificateRequest()
	s.awaitAlert(true)
	failure := s.authority().GetRotation().GetSigningFailure()
	if !strings.Contains(failure.GetReason(), "connection refused") || failure.GetRetryTime().AsTime().Before(failure.GetSinceTime().AsTime()) {
		t.Errorf("failed with %v", failure)
	}
	s.restart()
	if again := s.authority().GetRotation().GetCertificateRequest(); again != request {
		t.Error("another request after the controller's restart")
	}
	// Somebody can still carry it. It is old, so that its replacement begins by itself.
	if _, err := s.certificates().ImportCertificateAuthority(t.Context(), &swanherdv1.ImportCertificateAuthorityRequest{
		Name: authorityName, CertificateChain: signedBetween(t, request, time.Now().AddDate(-1, 0, 0), time.Now().AddDate(0, 0, 100)),
	}); err != nil {
		t.Fatal(err)
	}
	s.edge.at(s.controller)
	s.awaitAlert(false)
	s.renews()
	s.eventually("the next replacement to begin by itself", func() bool { return s.authority().GetRotation().GetActor() == "system" })
	s.awaitAlert(true)
	s.ca.Restart()
	s.renews()
	s.chainsToRoot()
	s.awaitAlert(false)
	s.told()
}

// refusesOthers asks for what cannot be.
func (s *subordinate) refusesOthers() {
	s.t.Helper()
	for _, bad := range []*swanherdv1.RotateCertificateAuthorityRequest{
		{Name: authorityName, ExternalAuthority: "lab"},
		{Name: authorityName, ExternalAuthority: "corp", External: true},
		{Name: controllerAuthority, ExternalAuthority: "corp"},
	} {
		if _, err := s.certificates().RotateCertificateAuthority(s.t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			s.t.Errorf("%v: %v", bad, err)
		}
	}
}

func (s *subordinate) rotate() *swanherdv1.CertificateAuthority {
	s.t.Helper()
	a, err := s.certificates().RotateCertificateAuthority(s.t.Context(), &swanherdv1.RotateCertificateAuthorityRequest{
		Name: authorityName, ExternalAuthority: "corp", RenewWithin: durationpb.New(time.Millisecond),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// renews waits until the new authority issues, and has the edge renew under it.
func (s *subordinate) renews() {
	s.t.Helper()
	var pin string
	s.eventually("the new authority to issue", func() bool {
		a := s.authority()
		pin = a.GetPin()
		return a.GetRotation().GetPhase() == swanherdv1.CertificateAuthority_PHASE_REISSUING
	})
	s.edge.wait("to be told to renew", func() bool { return s.edge.applied["trust"].GetTrust().GetIssuerPin() == pin })
	s.edge.renew()
	s.edge.at(s.controller)
	s.eventually("the authority before to be dropped", func() bool {
		return s.authority().GetRotation().GetPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING
	})
}

// chainsToRoot checks what the edge shows to those who know step-ca's root alone, and what is
// shown of the authority.
func (s *subordinate) chainsToRoot() {
	s.t.Helper()
	between := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(s.edge.chain[0])
	if err != nil {
		s.t.Fatal(err)
	}
	for _, der := range s.edge.chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			s.t.Fatal(err)
		}
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: s.corp.Roots(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		s.t.Errorf("the edge shows nothing that chains to step-ca's root: %v", err)
	}
	a := s.authority()
	if left := time.Until(a.GetRenewTime().AsTime()); a.GetExternalAuthority() != "corp" || left < 240*24*time.Hour || left > 245*24*time.Hour {
		s.t.Errorf("shown as of %q, replaced in %s", a.GetExternalAuthority(), left)
	}
}

// awaitAlert waits until it fires that step-ca does not sign, or does not.
func (s *subordinate) awaitAlert(fires bool) {
	s.t.Helper()
	s.eventually("the alert", func() bool {
		list, err := s.alerts().ListAlerts(s.t.Context(), &swanherdv1.ListAlertsRequest{Parent: "networks/demo", Filter: "state = STATE_FIRING"})
		if err != nil {
			s.t.Fatal(err)
		}
		i := slices.IndexFunc(list.GetAlerts(), func(a *swanherdv1.Alert) bool {
			return a.GetResource() == authorityName && strings.HasPrefix(a.GetSummary(), "corp does not sign the new authority: reach step-ca: ")
		})
		return fires == (i >= 0)
	})
}

// told checks what the log tells of all this, and who did it.
func (s *subordinate) told() {
	s.t.Helper()
	events, err := s.fleet().ListEvents(s.t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/demo", PageSize: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, e := range events.GetEvents() {
		if action, ok := strings.CutPrefix(e.GetAction(), "certificateAuthority."); ok {
			by := "somebody "
			if e.GetActor() == "system" {
				by = "itself "
			}
			counts[by+action]++
		}
	}
	want := map[string]int{
		"somebody rotate": 2, "itself rotate": 1, "somebody import": 1, "itself import": 2, "itself reissue": 3, "itself retire": 3, "itself unsigned": 2,
	}
	if !maps.Equal(counts, want) {
		s.t.Errorf("the log tells of %v, want %v", counts, want)
	}
}
