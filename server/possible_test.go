package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/store"
)

// possible makes a sample possible that is well formed but is not in a populated network as
// that is.
var possible = map[protoreflect.Name]func(c *controller, s *samples, req proto.Message){
	"Apply": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.ApplyRequest).Manifest.Networks[0].DisplayName = "Another"
	},
	"CreateNetwork": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.CreateNetworkRequest).Network.Name = "" // it is by its id
	},
	"CreateChangeSet": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.CreateChangeSetRequest).ChangeSet.Assertions = nil // those of the sample do not hold
	},
	"CreateRollout": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.CreateRolloutRequest).Rollout.ChangeSet = c.widerWindow(s)
	},
	"PauseRollout": func(c *controller, s *samples, req proto.Message) { setName(req, c.runningRollout(s)) },
	"AbortRollout": func(c *controller, s *samples, req proto.Message) { setName(req, c.runningRollout(s)) },
	"ResumeRollout": func(c *controller, s *samples, req proto.Message) {
		name := c.runningRollout(s)
		if _, err := c.rollouts().PauseRollout(c.t.Context(), &swanherdv1.PauseRolloutRequest{Name: name}); err != nil {
			c.t.Fatal(err)
		}
		setName(req, name)
	},
	"DeleteNetwork": func(c *controller, s *samples, req proto.Message) {
		made, err := c.topology().CreateNetwork(c.t.Context(), &swanherdv1.CreateNetworkRequest{NetworkId: s.network[len("networks/"):] + "-empty"})
		if err != nil {
			c.t.Fatal(err)
		}
		setName(req, made.GetName())
	},
	"DeleteProfile": func(c *controller, s *samples, req proto.Message) {
		made, err := c.topology().CreateProfile(c.t.Context(), &swanherdv1.CreateProfileRequest{Parent: s.network, ProfileId: "unused"})
		if err != nil {
			c.t.Fatal(err)
		}
		setName(req, made.GetName())
	},
	"DeletePreSharedKey": func(c *controller, s *samples, req proto.Message) {
		made, err := c.topology().CreatePreSharedKey(c.t.Context(), &swanherdv1.CreatePreSharedKeyRequest{
			Parent: s.network, PreSharedKeyId: "unused", PreSharedKey: &swanherdv1.PreSharedKey{Secret: "another secret of a test"},
		})
		if err != nil {
			c.t.Fatal(err)
		}
		setName(req, made.GetName())
	},
	"UpdateEdge": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.UpdateEdgeRequest).Edge.Site = s.network + "/sites/rome"
	},
	"DeleteEdge": func(c *controller, s *samples, req proto.Message) {
		if _, err := c.topology().DeleteGateway(c.t.Context(), &swanherdv1.DeleteGatewayRequest{Name: s.network + "/gateways/partner"}); err != nil {
			c.t.Fatal(err)
		}
	},
	"CreateJob":     func(c *controller, s *samples, req proto.Message) { s.edge.open() },
	"RekeyTunnel":   func(c *controller, s *samples, req proto.Message) { s.edge.open() },
	"RestartTunnel": func(c *controller, s *samples, req proto.Message) { s.edge.open() },

	"ForceCertificateAuthority":  func(c *controller, s *samples, req proto.Message) { c.rotating(s, false) },
	"CancelCertificateAuthority": func(c *controller, s *samples, req proto.Message) { c.rotating(s, false) },
	"ImportCertificateAuthority": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.ImportCertificateAuthorityRequest).CertificateChain = signedBySomebody(c.t, c.rotating(s, true).GetRotation().GetCertificateRequest())
	},
	"CreateClusterMember": func(c *controller, s *samples, req proto.Message) {
		req.(*swanherdv1.CreateClusterMemberRequest).ClusterMember.PeerAddress = "http://127.0.0.1:1"
	},
	"DeleteClusterMember": func(c *controller, s *samples, req proto.Message) {
		setName(req, c.learner())
	},
}

func setName(req proto.Message, name string) {
	m := req.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("name"), protoreflect.ValueOfString(name))
}

func clusterOfOne(t *testing.T) *store.Cluster {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return &store.Cluster{Member: "m0", Peers: map[string]string{"m0": "http://" + lis.Addr().String()}}
}

// widerWindow is a change set that touches every edge.
func (c *controller) widerWindow(s *samples) string {
	c.t.Helper()
	made, err := c.rollouts().CreateChangeSet(c.t.Context(), &swanherdv1.CreateChangeSetRequest{Parent: s.network, ChangeSet: &swanherdv1.ChangeSet{
		Manifest: &swanherdv1.Manifest{Profiles: []*swanherdv1.Profile{{Name: s.network + "/profiles/default", ReplayWindow: 2048}}},
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	return made.GetName()
}

// runningRollout is one that gets no further: the edges that it is for are gone.
func (c *controller) runningRollout(s *samples) string {
	c.t.Helper()
	made, err := c.rollouts().CreateRollout(c.t.Context(), &swanherdv1.CreateRolloutRequest{Parent: s.network, Rollout: &swanherdv1.Rollout{
		ChangeSet: c.widerWindow(s), Policy: quick(never),
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	return made.GetName()
}

// rotating begins to replace the network's authority.
func (c *controller) rotating(s *samples, external bool) *swanherdv1.CertificateAuthority {
	c.t.Helper()
	a, err := c.certificates().RotateCertificateAuthority(c.t.Context(), &swanherdv1.RotateCertificateAuthorityRequest{
		Name: s.network + "/certificateAuthority", External: external,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// learner is a member of the cluster that has not come yet.
func (c *controller) learner() string {
	c.t.Helper()
	cluster := swanherdv1.NewClusterServiceClient(c.dial(c.token))
	list, err := cluster.ListClusterMembers(c.t.Context(), &swanherdv1.ListClusterMembersRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range list.GetClusterMembers() {
		if m.GetLearner() {
			return m.GetName()
		}
	}
	made, err := cluster.CreateClusterMember(c.t.Context(), &swanherdv1.CreateClusterMemberRequest{ClusterMember: &swanherdv1.ClusterMember{PeerAddress: "http://127.0.0.1:3"}})
	if err != nil {
		c.t.Fatal(err)
	}
	return made.GetName()
}

// signedBySomebody is the certificate that an organisation's authority makes of a request.
func signedBySomebody(t testing.TB, request string) string {
	now := time.Now()
	return signedBetween(t, request, now.Add(-time.Hour), now.AddDate(10, 0, 0))
}

// signedBetween is signedBySomebody, of a certificate that is good between two moments.
func signedBetween(t testing.TB, request string, from, until time.Time) string {
	t.Helper()
	block, _ := pem.Decode([]byte(request))
	if block == nil {
		t.Fatalf("no certificate request: %q", request)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Corp Root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: from, NotAfter: until,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: csr.Subject, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: from, NotAfter: until,
	}
	var out []byte
	for _, of := range []struct {
		c   *x509.Certificate
		key any
	}{{leaf, csr.PublicKey}, {root, key.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, of.c, root, of.key, key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(out)
}
