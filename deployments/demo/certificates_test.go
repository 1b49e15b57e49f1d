package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/deployments/lab"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestCertificatesNetns does to the certificates of the demonstration's fleet what is
// done to those of fleets. The steps build on one another.
func TestCertificatesNetns(t *testing.T) {
	lab.Require(t)
	f := newFleet(t)
	f.await("every edge to keep what is planned", func() bool {
		return len(f.inState(swanherdv1.IntentState_INTENT_STATE_CONFIRMED)) == 4 && f.up() == 6
	})
	for _, step := range []struct {
		name string
		run  func(*fleetTest)
	}{
		{"a registered device waits for approval", (*fleetTest).deviceApproved},
		{"the authority is replaced under traffic", (*fleetTest).authorityReplaced},
		{"an external authority takes over", (*fleetTest).authorityExternal},
		{"the controller's authority is replaced under traffic", (*fleetTest).controllerAuthorityReplaced},
		{"an edge is revoked and replaced", (*fleetTest).edgeRevoked},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			f.T = t
			step.run(f)
		}) {
			f.T = t
			f.printLogs()
			return
		}
	}
}

func (f *fleetTest) certificates() swanherdv1.CertificateServiceClient {
	return swanherdv1.NewCertificateServiceClient(f.conn)
}

// deviceApproved has a device enrol that has no token: it is registered, calls, waits,
// and is admitted when an operator approves of its key.
func (f *fleetTest) deviceApproved() {
	devices, berlin := swanherdv1.NewDeviceServiceClient(f.conn), f.site("berlin")
	if _, err := devices.CreateDevice(f.ctx, &swanherdv1.CreateDeviceRequest{Parent: network, Device: &swanherdv1.Device{
		SerialNumber: "SN-42", Site: network + "/sites/berlin", EdgeId: "berlin-2",
	}}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(f.dir, "controller", "admin-credential"))
	if err != nil {
		f.Fatal(err)
	}
	var credential struct {
		CAPin string `json:"ca_pin"`
	}
	if err := json.Unmarshal(b, &credential); err != nil {
		f.Fatal(err)
	}
	program, dir := filepath.Join(f.dir, "swanherd-edge"), filepath.Join(f.dir, "device")
	fingerprint, err := berlin.edge.Run(f.ctx, program, "fingerprint", "--state-dir", dir)
	if err != nil {
		f.Fatal(err)
	}
	type answer struct {
		out string
		err error
	}
	enrolled := make(chan answer, 1)
	go func() {
		out, err := berlin.edge.Run(f.ctx, program, "enroll", "--controller", fmt.Sprintf("%s:%d", controllerAddr, edgePort),
			"--ca-pin", credential.CAPin, "--serial-number", "SN-42", "--state-dir", dir)
		enrolled <- answer{out, err}
	}()
	var request *swanherdv1.EnrollmentRequest
	f.await("the device to ask", func() bool {
		list, err := devices.ListEnrollmentRequests(f.ctx, &swanherdv1.ListEnrollmentRequestsRequest{Parent: network})
		if err != nil {
			f.Fatal(err)
		}
		if len(list.GetEnrollmentRequests()) == 1 {
			request = list.GetEnrollmentRequests()[0]
		}
		return request != nil
	})
	if request.GetKeyFingerprint() != strings.TrimSpace(fingerprint) || request.GetSourceAddress() != berlin.wanAddr.String() || request.GetSerialNumber() != "SN-42" {
		f.Errorf("the operator sees %v, the device's key is %s", request, fingerprint)
	}
	if _, err := devices.ApproveEnrollmentRequest(f.ctx, &swanherdv1.ApproveEnrollmentRequestRequest{Name: request.GetName()}); err != nil {
		f.Fatal(err)
	}
	if a := <-enrolled; a.err != nil || !strings.Contains(a.out, "enrolled as "+network+"/edges/berlin-2") {
		f.Errorf("enroll: %v: %s", a.err, a.out)
	}
	if _, err := f.topology.DeleteEdge(f.ctx, &swanherdv1.DeleteEdgeRequest{Name: network + "/edges/berlin-2"}); err != nil {
		f.Fatal(err)
	}
	f.await("the tunnels of berlin-2 to go", func() bool { return len(f.tunnels()) == 6 && f.up() == 6 })
}

// authorityReplaced replaces the network's authority while traffic flows: every edge
// authenticates anew with a certificate of the new authority, and no packet is lost. The
// controller is killed in the middle, and goes on.
func (f *fleetTest) authorityReplaced() {
	name := network + "/certificateAuthority"
	get := func() *swanherdv1.CertificateAuthority {
		a, err := f.certificates().GetCertificateAuthority(f.ctx, &swanherdv1.GetCertificateAuthorityRequest{Name: name})
		if err != nil {
			f.Fatal(err)
		}
		return a
	}
	before, spis := get(), f.ikeSPIs()
	traffic := f.traffic("berlin", "oslo")
	oslo := f.site("oslo")
	oslo.agent.Kill() // until it is back, nothing goes on
	oslo.agent = nil  // expected to be gone
	if _, err := f.certificates().RotateCertificateAuthority(f.ctx, &swanherdv1.RotateCertificateAuthorityRequest{
		Name: name, RenewWithin: durationpb.New(3 * time.Second),
	}); err != nil {
		f.Fatal(err)
	}
	f.await("all edges but oslo to trust both authorities", func() bool {
		r := get().GetRotation()
		return r.GetDone() == 3 && len(r.GetWaiting()) == 1 && r.GetWaiting()[0].GetEdge() == network+"/edges/oslo"
	})
	if a := get(); a.GetPin() != before.GetPin() || a.GetRotation().GetPhase() != swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING {
		f.Errorf("went on without oslo: %v", a)
	}
	traffic.end() // lost is what oslo did not answer
	if err := f.runEdge(oslo); err != nil {
		f.Fatal(err)
	}
	f.await("the tunnels of oslo to come back", func() bool { return f.up() == 6 })
	traffic = f.traffic("berlin", "lima")
	f.await("the new authority to issue", func() bool { return get().GetPin() != before.GetPin() })
	f.server.Kill()
	f.startAgain()
	f.await("the old authority to be dropped", func() bool { return get().GetRotation() == nil })
	f.await("every edge to keep what is planned, and every tunnel to be authenticated anew", func() bool {
		now := f.ikeSPIs()
		for tunnel, spi := range spis {
			if now[tunnel] == spi {
				return false
			}
		}
		return len(f.inState(swanherdv1.IntentState_INTENT_STATE_CONFIRMED)) == 4 && f.up() == 6
	})
	sent, received := traffic.end()
	f.Logf("%d packets while the authority was replaced", sent)
	if received != sent || sent == 0 {
		f.Errorf("%d of %d packets arrived while the authority was replaced", received, sent)
	}
	list, err := f.certificates().ListCertificates(f.ctx, &swanherdv1.ListCertificatesRequest{Parent: network})
	if err != nil || len(list.GetCertificates()) != 8 {
		f.Errorf("certificates are %v, %v", list, err)
	}
	for _, c := range list.GetCertificates() {
		if c.GetIssuerPin() != get().GetPin() {
			f.Errorf("%s has a certificate of %s", c.GetEdge(), c.GetIssuerPin())
		}
	}
}

// authorityExternal puts the network's authority below one that the controller has not:
// the edges' tunnels are authenticated by certificates of the subordinate one.
func (f *fleetTest) authorityExternal() {
	name := network + "/certificateAuthority"
	spis := f.ikeSPIs()
	a, err := f.certificates().RotateCertificateAuthority(f.ctx, &swanherdv1.RotateCertificateAuthorityRequest{
		Name: name, RenewWithin: durationpb.New(time.Second), External: true,
	})
	if err != nil {
		f.Fatal(err)
	}
	root, chain := signAuthority(f.T, a.GetRotation().GetCertificateRequest())
	traffic := f.traffic("berlin", "tokyo")
	if _, err := f.certificates().ImportCertificateAuthority(f.ctx, &swanherdv1.ImportCertificateAuthorityRequest{Name: name, CertificateChain: chain}); err != nil {
		f.Fatal(err)
	}
	f.await("the authority to be another one, and every tunnel to be authenticated anew", func() bool {
		a, err := f.certificates().GetCertificateAuthority(f.ctx, &swanherdv1.GetCertificateAuthorityRequest{Name: name})
		if err != nil {
			f.Fatal(err)
		}
		now := f.ikeSPIs()
		for tunnel, spi := range spis {
			if now[tunnel] == spi {
				return false
			}
		}
		return a.GetRotation() == nil && len(f.inState(swanherdv1.IntentState_INTENT_STATE_CONFIRMED)) == 4 && f.up() == 6
	})
	if sent, received := traffic.end(); received != sent || sent == 0 {
		f.Errorf("%d of %d packets arrived while the authority was replaced", received, sent)
	}
	for _, s := range f.world.sites {
		b, err := os.ReadFile(filepath.Join(f.dir, s.name, "identity", "ike.crt"))
		if err != nil {
			f.Fatal(err)
		}
		leaf, rest := pem.Decode(b)
		c, err := x509.ParseCertificate(leaf.Bytes)
		if err != nil {
			f.Fatal(err)
		}
		between := x509.NewCertPool()
		between.AppendCertsFromPEM(rest)
		if _, err := c.Verify(x509.VerifyOptions{Roots: root, Intermediates: between}); err != nil {
			f.Errorf("%s shows nothing that chains to the external root: %v", s.name, err)
		}
	}
}

// signAuthority makes a root and signs the request with it, as an authority; it returns
// the root and the certificate in PEM.
func signAuthority(t *testing.T, request string) (root *x509.CertPool, chain string) {
	t.Helper()
	block, _ := pem.Decode([]byte(request))
	if block == nil {
		t.Fatalf("request is %q", request)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := func(name pkix.Name) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: name, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		}
	}
	top := template(pkix.Name{CommonName: "Example Corp Root"})
	der, err := x509.CreateCertificate(rand.Reader, top, top, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if top, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	root = x509.NewCertPool()
	root.AddCert(top)
	if der, err = x509.CreateCertificate(rand.Reader, template(csr.Subject), top, csr.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	return root, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// ikeSPIs are the SPIs of every tunnel's IKE SA as its first end reports them.
func (f *fleetTest) ikeSPIs() map[string]string {
	all := map[string]string{}
	for _, t := range f.tunnels() {
		all[t.GetName()] = t.GetA().GetReport().GetIkeSa().GetInitiatorSpi()
	}
	return all
}

// traffic pings from one site to another until it is ended.
type traffic struct {
	stop chan struct{}
	done chan [2]int
}

func (f *fleetTest) traffic(from, to string) *traffic {
	t := &traffic{stop: make(chan struct{}), done: make(chan [2]int, 1)}
	a, b := f.site(from), f.site(to)
	go func() {
		var sum [2]int
		for {
			var r lab.PingResult
			r, _ = a.lan.Ping(f.ctx, a.lanAddr4, b.lanAddr4, 25) // half a second; that any is lost is an error
			sum[0] += r.Sent
			sum[1] += r.Received
			select {
			case <-t.stop:
				t.done <- sum
				return
			default:
			}
		}
	}()
	return t
}

func (t *traffic) end() (sent, received int) {
	close(t.stop)
	sum := <-t.done
	return sum[0], sum[1]
}

// edgeRevoked takes the certificates of an edge that runs on: its peers end the tunnels
// at once and refuse new ones, say so, and another device takes its place.
func (f *fleetTest) edgeRevoked() {
	lima, berlin := f.site("lima"), f.site("berlin")
	began := time.Now()
	if _, err := f.certificates().RevokeEdge(f.ctx, &swanherdv1.RevokeEdgeRequest{Name: network + "/edges/lima", Reason: "stolen"}); err != nil {
		f.Fatal(err)
	}
	gone := func(s *site) bool {
		for _, t := range f.edgeTunnels(s) {
			if strings.Contains(t.GetTunnel(), "lima") && (t.GetState() == swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED || len(t.GetChildSas()) > 0) {
				return false
			}
		}
		return true
	}
	f.await("berlin to end the SAs of lima", func() bool { return gone(berlin) })
	f.Logf("berlin had no SA with lima %v after the call", time.Since(began).Round(time.Millisecond))
	f.await("oslo to end the SAs of lima", func() bool { return gone(f.site("oslo")) })
	f.await("the peers to acknowledge", func() bool {
		list, err := f.certificates().ListRevocations(f.ctx, &swanherdv1.ListRevocationsRequest{Parent: network})
		if err != nil {
			f.Fatal(err)
		}
		known := 0
		for _, r := range list.GetRevocations() {
			if r.GetEdge() == network+"/edges/lima" && r.GetAcknowledged() == r.GetEdges() && r.GetEdges() == 3 {
				known++
			}
		}
		return known > 0
	})
	if f.connected() != 3 {
		f.Errorf("%d edges are connected, want all but lima", f.connected())
	}
	// It runs on, and tries: a restart makes it begin anew with what it has.
	lima.agent.Kill()
	refusals := func() int { return strings.Count(berlin.agent.Output(), "is revoked") }
	refused := refusals()
	if err := f.runEdge(lima); err != nil {
		f.Fatal(err)
	}
	f.await("berlin to refuse lima's certificate", func() bool { return refusals() > refused })
	if !gone(berlin) {
		f.Error("berlin took a revoked certificate")
	}
	if _, err := berlin.lan.Ping(f.ctx, berlin.lanAddr4, lima.lanAddr4, 1); err == nil {
		f.Error("a revoked edge still answers")
	}
	f.ping(berlin, f.site("oslo"))

	token, err := f.access.CreateEnrollmentToken(f.ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: network, EnrollmentToken: &swanherdv1.EnrollmentToken{Edge: network + "/edges/lima"},
	})
	if err != nil {
		f.Fatal(err)
	}
	lima.agent.Kill()
	if err := os.RemoveAll(filepath.Join(f.dir, "lima")); err != nil { // another device
		f.Fatal(err)
	}
	if err := f.runEdge(lima, "--token", token.GetSecret()); err != nil {
		f.Fatal(err)
	}
	f.await("the device that takes lima's place", func() bool { return f.connected() == 4 && f.up() == 6 })
	f.ping(berlin, lima)
}
