package server_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func (c *controller) makeToken(want *swanherdv1.EnrollmentToken) *swanherdv1.EnrollmentToken {
	c.t.Helper()
	made, err := c.access().CreateEnrollmentToken(c.t.Context(), &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: "networks/demo", EnrollmentToken: want,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return made
}

func (c *controller) audited(action string) *swanherdv1.Event {
	c.t.Helper()
	events, err := c.fleet().ListEvents(c.t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/demo"})
	if err != nil {
		c.t.Fatal(err)
	}
	i := slices.IndexFunc(events.GetEvents(), func(e *swanherdv1.Event) bool { return e.GetAction() == action })
	if i < 0 {
		c.t.Errorf("%s is not in the audit log", action)
		return nil
	}
	return events.GetEvents()[i]
}

// An edge that is revoked loses its session at once, and every other edge gets the
// serial numbers of its certificates and says so.
func TestRevokedEdge(t *testing.T) {
	c := startController(t)
	c.apply()
	stolen, peer := c.enrolled("berlin"), c.enrolled("oslo")
	stolen.open()
	peer.open()
	stolen.until("berlin--oslo")
	peer.until("berlin--oslo")
	// A connection that would resume its TLS session: each proves the certificate anew.
	cache := tls.NewLRUClientSessionCache(1)
	resumed := false
	resumable := func() error {
		conn, err := grpc.NewClient(c.s.Info().EdgeEndpoints[0], grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: c.roots, ClientSessionCache: cache,
			VerifyConnection: func(s tls.ConnectionState) error { resumed = s.DidResume; return nil },
			Certificates:     []tls.Certificate{{Certificate: stolen.chain, PrivateKey: stolen.control}},
		})))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = swanherdv1.NewEnrollmentServiceClient(conn).RenewCertificate(t.Context(), &swanherdv1.RenewCertificateRequest{
			ControlCsr: []byte("x"), IkeCsr: []byte("x"),
		})
		return err
	}
	for range 2 {
		if err := resumable(); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("before the revocation: %v", err)
		}
	}
	if resumed {
		t.Error("a TLS session is resumed, without a proof of the certificate")
	}

	resp, err := c.certificates().RevokeEdge(t.Context(), &swanherdv1.RevokeEdgeRequest{Name: stolen.name, Reason: "stolen"})
	if err != nil || len(resp.GetSerials()) != 2 {
		t.Fatalf("revoke: %v, %v", resp, err)
	}
	if err := <-stolen.ended; status.Code(err) != codes.PermissionDenied {
		t.Errorf("session ended with %v", err)
	}
	peer.wait("the revoked serial numbers", func() bool {
		have := peer.applied["trust"].GetTrust().GetRevokedSerials()
		return slices.Contains(have, resp.GetSerials()[0]) && slices.Contains(have, resp.GetSerials()[1])
	})
	if err := resumable(); resumed || status.Code(err) != codes.Unavailable && status.Code(err) != codes.PermissionDenied {
		t.Errorf("a TLS session after the revocation, resumed %t: %v", resumed, err)
	}
	c.eventually("the revocation to be acknowledged", func() bool {
		list, err := c.certificates().ListRevocations(t.Context(), &swanherdv1.ListRevocationsRequest{Parent: "networks/demo"})
		if err != nil {
			t.Fatal(err)
		}
		all := len(list.GetRevocations()) == 2
		for _, r := range list.GetRevocations() {
			all = all && r.GetEdge() == stolen.name && r.GetReason() == "stolen" && r.GetEdges() == 1 && r.GetAcknowledged() == 1 && len(r.GetPending()) == 0
		}
		return all
	})
	if e := c.audited("edge.revoke"); !strings.Contains(e.GetMessage(), "stolen") {
		t.Errorf("audit says %q", e.GetMessage())
	}
	list, err := c.certificates().ListCertificates(t.Context(), &swanherdv1.ListCertificatesRequest{Parent: "networks/demo"})
	if err != nil || len(list.GetCertificates()) != 2 || list.GetCertificates()[0].GetEdge() != peer.name {
		t.Errorf("certificates are %v, %v", list, err)
	}
	// The edge stays, and its name is not free to whoever has a token for the site.
	if _, err := c.newEdge().tryEnroll(c.tokenFor("berlin", 1), ""); status.Code(err) != codes.AlreadyExists {
		t.Errorf("enrol under the name of a revoked edge: %v", err)
	}
}

// eventually waits until ok holds of what the API shows.
func (c *controller) eventually(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Another device takes an edge's place: the name, the site and the tunnels stay, what
// the device before had is revoked.
func TestReplacedEdge(t *testing.T) {
	c := startController(t)
	c.apply()
	old, peer := c.enrolled("berlin"), c.enrolled("oslo")
	old.open()
	peer.open()
	peer.until("berlin--oslo")
	before, err := c.topology().GetEdge(t.Context(), &swanherdv1.GetEdgeRequest{Name: old.name})
	if err != nil {
		t.Fatal(err)
	}
	token := c.makeToken(&swanherdv1.EnrollmentToken{Edge: old.name})
	fresh := c.newEdge()
	for range 2 { // a repeat is the same
		fresh.enroll(token.GetSecret())
	}
	if fresh.name != old.name {
		t.Errorf("enrolled as %s", fresh.name)
	}
	if err := <-old.ended; status.Code(err) != codes.PermissionDenied {
		t.Errorf("the session of the device before ended with %v", err)
	}
	fresh.open()
	fresh.until("berlin--oslo")
	peer.wait("the serial numbers of the device before", func() bool {
		return len(peer.applied["trust"].GetTrust().GetRevokedSerials()) == 2
	})
	after, err := c.topology().GetEdge(t.Context(), &swanherdv1.GetEdgeRequest{Name: old.name})
	if err != nil || after.GetUid() != before.GetUid() || after.GetSite() != before.GetSite() {
		t.Errorf("the edge became %v, %v", after, err)
	}
	if _, err := c.newEdge().tryEnroll(token.GetSecret(), ""); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a third device with the same token: %v", err)
	}
	c.audited("edge.replace")
}

// Many edges that use one token at once: each use counts once, and not one more is
// admitted than the token says.
func TestTokenIsNotUsedMoreOftenThanItSays(t *testing.T) {
	c := startController(t)
	c.apply()
	token := c.makeToken(&swanherdv1.EnrollmentToken{CreateSite: true, MaxUses: 5, SiteLabels: map[string]string{"region": "emea"}})
	var wg sync.WaitGroup
	codesOf := make(chan codes.Code, 8)
	for i := range 8 {
		e := c.newEdge()
		wg.Go(func() {
			_, err := e.tryEnroll(token.GetSecret(), fmt.Sprintf("branch-%d", i))
			codesOf <- status.Code(err)
		})
	}
	wg.Wait()
	close(codesOf)
	count := map[codes.Code]int{}
	for code := range codesOf {
		count[code]++
	}
	if count[codes.OK] != 5 || count[codes.PermissionDenied] != 3 {
		t.Errorf("8 edges with a token for 5: %v", count)
	}
	sites, err := c.topology().ListSites(t.Context(), &swanherdv1.ListSitesRequest{Parent: "networks/demo"})
	made := 0
	for _, s := range sites.GetSites() {
		if strings.Contains(s.GetName(), "/branch-") && s.GetLabels()["region"] == "emea" {
			made++
		}
	}
	if err != nil || made != 5 {
		t.Errorf("the token made %d sites, %v", made, err)
	}
}

func TestTokenFromElsewhere(t *testing.T) {
	c := startController(t)
	c.apply()
	far := c.makeToken(&swanherdv1.EnrollmentToken{Site: "networks/demo/sites/berlin", AllowedCidrs: []string{"203.0.113.0/24", "2001:db8::/32"}})
	if _, err := c.newEdge().tryEnroll(far.GetSecret(), ""); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "enrollment token is not valid") {
		t.Errorf("from an address that the token does not allow: %v", err)
	}
	near := c.makeToken(&swanherdv1.EnrollmentToken{Site: "networks/demo/sites/berlin", AllowedCidrs: []string{"127.0.0.0/8"}})
	if _, err := c.newEdge().tryEnroll(near.GetSecret(), ""); err != nil {
		t.Errorf("from an address that it allows: %v", err)
	}
}

func TestApproval(t *testing.T) {
	c := startController(t)
	c.apply()
	token := c.makeToken(&swanherdv1.EnrollmentToken{Site: "networks/demo/sites/berlin", MaxUses: 5, ApprovalRequired: true})
	ask := func(e *testEdge, id string) string {
		t.Helper()
		resp, err := e.tryEnroll(token.GetSecret(), id)
		if err != nil || resp.GetEdge() != "" || resp.GetCertificates() != nil {
			t.Fatalf("enrol: %v, %v", resp, err)
		}
		key, err := x509.MarshalPKIXPublicKey(e.control.Public())
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(key); resp.GetPending().GetKeyFingerprint() != hex.EncodeToString(sum[:]) {
			t.Errorf("fingerprint is %s", resp.GetPending().GetKeyFingerprint())
		}
		return resp.GetPending().GetEnrollmentRequest()
	}
	good, bad, other := c.newEdge(), c.newEdge(), c.newEdge()
	request, denied := ask(good, ""), ask(bad, "evil")
	if again := ask(good, ""); again != request {
		t.Errorf("asking again made another request: %s, %s", request, again)
	}
	if resp, err := good.poll(request); err != nil || resp.GetPending() == nil {
		t.Errorf("poll: %v, %v", resp, err)
	}
	list, err := c.devices().ListEnrollmentRequests(t.Context(), &swanherdv1.ListEnrollmentRequestsRequest{Parent: "networks/demo"})
	if err != nil || len(list.GetEnrollmentRequests()) != 2 || list.GetEnrollmentRequests()[0].GetSourceAddress() != "127.0.0.1" {
		t.Errorf("requests are %v, %v", list, err)
	}
	if _, err := c.devices().ApproveEnrollmentRequest(t.Context(), &swanherdv1.ApproveEnrollmentRequestRequest{Name: request}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.devices().DenyEnrollmentRequest(t.Context(), &swanherdv1.DenyEnrollmentRequestRequest{Name: denied}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.devices().ApproveEnrollmentRequest(t.Context(), &swanherdv1.ApproveEnrollmentRequestRequest{Name: denied}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("approve what was denied: %v", err)
	}
	// The approval is the key's, not the name's.
	if _, err := other.poll(request); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another key took the approval: %v", err)
	}
	if _, err := bad.poll(denied); status.Code(err) != codes.PermissionDenied {
		t.Errorf("poll of a denied request: %v", err)
	}
	if _, err := bad.tryEnroll(token.GetSecret(), "evil"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("enrol after it was denied: %v", err)
	}
	for range 2 { // an answer that was lost is asked for again
		resp, err := good.poll(request)
		if err != nil || resp.GetEdge() != "networks/demo/edges/berlin" {
			t.Fatalf("poll after the approval: %v, %v", resp, err)
		}
		good.take(resp)
	}
	good.open()
	good.until()
	tokens, err := c.access().ListEnrollmentTokens(t.Context(), &swanherdv1.ListEnrollmentTokensRequest{Parent: "networks/demo"})
	if err != nil || tokens.GetEnrollmentTokens()[0].GetUses() != 1 {
		t.Errorf("tokens are %v, %v", tokens, err)
	}
	c.audited("enrollment.request")
	c.audited("enrollment.deny")
	if e := c.audited("enrollment.approve"); e.GetActor() != "token:admin" {
		t.Errorf("approved by %q", e.GetActor())
	}
}

func TestRegisteredDevice(t *testing.T) {
	c := startController(t)
	c.apply()
	register := func(d *swanherdv1.Device) (*swanherdv1.Device, error) {
		return c.devices().CreateDevice(t.Context(), &swanherdv1.CreateDeviceRequest{Parent: "networks/demo", Device: d})
	}
	if _, err := register(&swanherdv1.Device{SerialNumber: "SN-1", Site: "networks/demo/sites/berlin"}); err != nil {
		t.Fatal(err)
	}
	if _, err := register(&swanherdv1.Device{SerialNumber: "sn-1", Site: "networks/demo/sites/oslo"}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same serial number again: %v", err)
	}
	if _, err := c.newEdge().tryEnrollSerial("SN-9"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a serial number that nobody registered: %v", err)
	}
	e := c.newEdge()
	resp, err := e.tryEnrollSerial("SN-1")
	if err != nil || resp.GetPending() == nil {
		t.Fatalf("a serial number alone: %v, %v", resp, err)
	}
	request := resp.GetPending().GetEnrollmentRequest()
	if _, err := c.devices().ApproveEnrollmentRequest(t.Context(), &swanherdv1.ApproveEnrollmentRequestRequest{Name: request}); err != nil {
		t.Fatal(err)
	}
	if resp, err = e.poll(request); err != nil || resp.GetEdge() != "networks/demo/edges/berlin" {
		t.Fatalf("poll: %v, %v", resp, err)
	}
	if _, err := c.newEdge().tryEnrollSerial("SN-1"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a serial number was claimed twice: %v", err)
	}

	// With the key registered, the right device needs nobody, and no other one does it.
	e = c.newEdge()
	key, err := x509.MarshalPKIXPublicKey(e.control.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(key)
	if _, err := register(&swanherdv1.Device{SerialNumber: "SN-2", Site: "networks/demo/sites/oslo", EdgeId: "oslo-1", KeyFingerprint: hex.EncodeToString(sum[:])}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.newEdge().tryEnrollSerial("SN-2"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another key with a registered serial number: %v", err)
	}
	for range 2 {
		if resp, err = e.tryEnrollSerial("SN-2"); err != nil || resp.GetEdge() != "networks/demo/edges/oslo-1" {
			t.Fatalf("the registered key: %v, %v", resp, err)
		}
	}
	list, err := c.devices().ListDevices(t.Context(), &swanherdv1.ListDevicesRequest{Parent: "networks/demo"})
	if err != nil || len(list.GetDevices()) != 2 || list.GetDevices()[0].GetEdge() == "" || list.GetDevices()[1].GetEdge() == "" {
		t.Errorf("devices are %v, %v", list, err)
	}
}

// An edge in quarantine keeps its session and has no tunnels, nor has any other edge
// one with it.
func TestQuarantine(t *testing.T) {
	c := startController(t)
	c.apply()
	berlin, oslo := c.enrolled("berlin"), c.enrolled("oslo")
	for _, e := range []*testEdge{berlin, oslo} {
		e.open()
		e.until("berlin--oslo")
	}
	set := func(disabled bool) {
		t.Helper()
		if _, err := c.topology().UpdateEdge(t.Context(), &swanherdv1.UpdateEdgeRequest{
			Edge: &swanherdv1.Edge{Name: berlin.name, Disabled: disabled}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	set(true)
	berlin.until()
	oslo.until()
	set(false)
	berlin.until("berlin--oslo")
	oslo.until("berlin--oslo")
}

// Who knows a serial number, which is no secret, cannot keep others from asking.
func TestSerialNumberIsNoWayToFillTheQueue(t *testing.T) {
	c := startController(t)
	c.apply()
	for i, serial := range []string{"SN-1", "SN-2"} {
		if _, err := c.devices().CreateDevice(t.Context(), &swanherdv1.CreateDeviceRequest{Parent: "networks/demo", Device: &swanherdv1.Device{
			SerialNumber: serial, Site: []string{"networks/demo/sites/berlin", "networks/demo/sites/oslo"}[i],
		}}); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for range 12 {
		if _, err = c.newEdge().tryEnrollSerial("SN-1"); err != nil {
			break
		}
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("many keys with one serial number: %v", err)
	}
	if _, err := c.newEdge().tryEnrollSerial("SN-2"); err != nil {
		t.Errorf("another device: %v", err)
	}
}
