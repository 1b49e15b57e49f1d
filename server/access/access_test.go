package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A method without a rule would be refused, one with a rule and no method is a
// leftover.
func TestEveryMethodHasARule(t *testing.T) {
	methods := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("swanherd.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				name := "/" + string(s.FullName()) + "/" + string(s.Methods().Get(j).Name())
				methods[name] = true
				if _, ok := rules[name]; !ok {
					t.Errorf("%s has no rule: add one to rules", name)
				}
			}
		}
		return true
	})
	if len(methods) < 30 {
		t.Errorf("found %d methods only", len(methods))
	}
	for name, r := range rules {
		if strings.HasPrefix(name, "/swanherd.") && !methods[name] {
			t.Errorf("rule for %s, which does not exist", name)
		}
		if r.caller == forOperators && r.role == swanherdv1.Role_ROLE_UNSPECIFIED {
			t.Errorf("%s lets every role in", name)
		}
	}
}

// A method whose rule is about the networks in the request has to have them
// there: otherwise it would pass for every network.
func TestScopedRequestsNameTheirNetwork(t *testing.T) {
	protoregistry.GlobalFiles.RangeFilesByPackage("swanherd.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				name := "/" + string(s.FullName()) + "/" + string(m.Name())
				if r := rules[name]; r.caller != forOperators || r.scope != inNetworks || m.Name() == "Apply" {
					continue
				}
				typ, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				if got := networksOf(typ.New().Interface()); len(got) != 1 {
					t.Errorf("%s: networks of its request are %v", name, got)
				}
			}
		}
		return true
	})
}

func TestNetworksOfRequests(t *testing.T) {
	for _, x := range []struct {
		req  proto.Message
		want string
	}{
		{&swanherdv1.GetSiteRequest{Name: "networks/a/sites/b"}, "networks/a"},
		{&swanherdv1.ListSitesRequest{Parent: "networks/a"}, "networks/a"},
		{&swanherdv1.UpdateMeshRequest{Mesh: &swanherdv1.Mesh{Name: "networks/a/meshes/b"}}, "networks/a"},
		{&swanherdv1.CreateNetworkRequest{NetworkId: "a"}, "networks/a"},
		{&swanherdv1.DeleteNetworkRequest{Name: "networks/a"}, "networks/a"},
		{&swanherdv1.UpdateNetworkRequest{}, "/"},
		{&swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{
			Networks: []*swanherdv1.Network{{Name: "networks/a"}}, Sites: []*swanherdv1.Site{{Name: "networks/b/sites/c"}, {Name: "networks/b/sites/d"}},
		}}, "networks/a networks/b"},
	} {
		if got := strings.Join(networksOf(x.req), " "); got != x.want {
			t.Errorf("%T: got %s, want %s", x.req, got, x.want)
		}
	}
	if (Principal{Grants: []Grant{{Role: viewer, Networks: []string{"networks/a"}}}}).Sees("/") {
		t.Error("a request without a name passes for a bound principal")
	}
}

func TestAPITokenForm(t *testing.T) {
	secret := newSecret()
	text := formatAPIToken("admin", secret)
	id, got, err := parseAPIToken(text)
	if err != nil || id != "admin" || !matches(got, hashSecret(secret)) {
		t.Errorf("%s parses as %s, %v", text, id, err)
	}
	for _, bad := range []string{
		"", "swa_", "swa_admin", "swa__x", "swa_admin_", text + "A", text[:len(text)-3], "swe_" + text[4:],
		"swa_a/b_" + strings.SplitN(text, "_", 3)[2], "swa_" + strings.Repeat("a", 500),
	} {
		if _, _, err := parseAPIToken(bad); err == nil {
			t.Errorf("%q is taken for a token", bad)
		}
	}
}

// What in a certificate cannot stand in a binding, or in a line of the log, is no name.
func TestNamesOfCertificates(t *testing.T) {
	for cn, want := range map[string]string{
		"Dave Miller": "cert-cn:Dave Miller", "": "", " dave": "", "a\nb": "", "a\x00b": "", "\xff": "", strings.Repeat("a", 256): "",
	} {
		who := identityOf(&x509.Certificate{Subject: pkix.Name{CommonName: cn}})
		if got := strings.Join(who.certificate, " "); got != want {
			t.Errorf("%q: %q, want %q", cn, got, want)
		}
	}
	who := identityOf(&x509.Certificate{
		Subject: pkix.Name{CommonName: "c"}, EmailAddresses: []string{"A@x.net"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/ci"}},
	})
	if got := strings.Join(who.certificate, " "); got != "cert-uri:spiffe://acme/ci cert-email:a@x.net cert-cn:c" || who.actor() != "cert-uri:spiffe://acme/ci" {
		t.Errorf("names are %s, the first %s", got, who.actor())
	}
	for member, want := range map[string]bool{
		"cert-email:A@X.net": true, "cert-cn:c": true, "cert-cn:C": false, "email:a@x.net": false, "subject:": false, "group:c": false, "cert-uri:c": false,
	} {
		if who.is(member) != want {
			t.Errorf("%q: %t", member, !want)
		}
	}
}

func FuzzParseTokens(f *testing.F) {
	text, err := EnrollmentSecret{Endpoints: []string{"c:7444"}, Pin: "00", Name: "networks/a/enrollmentTokens/b", Secret: "AAAA"}.format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(formatAPIToken("admin", newSecret()))
	f.Fuzz(func(t *testing.T, s string) {
		if _, secret, err := ParseEnrollmentToken(s); err == nil && len(secret) != secretSize {
			t.Errorf("secret of %d octets", len(secret))
		}
		if _, secret, err := parseAPIToken(s); err == nil && len(secret) != secretSize {
			t.Errorf("secret of %d octets", len(secret))
		}
	})
}

func TestFailuresAreLimitedPerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFailureLimiter()
		guesser, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for range failureBurst {
			if l.blocked(guesser) || !l.failed(guesser) {
				t.Fatal("blocked before the burst was used up")
			}
		}
		if !l.blocked(guesser) || l.failed(guesser) {
			t.Error("not blocked after the burst")
		}
		if l.blocked(other) {
			t.Error("another source is blocked too")
		}
		time.Sleep(failureInterval)
		if l.blocked(guesser) {
			t.Error("still blocked after the interval")
		}
	})
}

func TestSourcePrefix(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7":        "192.0.2.7/32",
		"::ffff:192.0.2.7": "192.0.2.7/32",
		"2001:db8:1:2::7":  "2001:db8:1:2::/64",
		"fe80::1%eth0":     "fe80::/64",
	} {
		if got := sourcePrefix(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s counts as %s, want %s", in, got, want)
		}
	}
	sourcePrefix(netip.Addr{}) // of a call from nowhere: no panic
}

func TestSourcesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFailureLimiter()
		a := netip.MustParseAddr("10.0.0.0")
		for range maxSources + 1000 {
			l.failed(a)
			a = a.Next()
		}
		if len(l.sources) > maxSources {
			t.Errorf("%d sources are remembered", len(l.sources))
		}
		time.Sleep(time.Hour)
		l.failed(a)
		if len(l.sources) != 1 {
			t.Errorf("%d sources are remembered after an hour", len(l.sources))
		}
	})
}

func TestInvalidAllNamesEveryField(t *testing.T) {
	var v []Violation
	for range 5 {
		v = append(v, Violation{Field: "site.prefixes[0]", Message: "is wrong"})
	}
	st := status.Convert(InvalidAll(v))
	if st.Code() != codes.InvalidArgument || !strings.HasSuffix(st.Message(), "and 2 more, see the details") || len(st.Details()) != 1 {
		t.Errorf("got %v", st)
	}
}
