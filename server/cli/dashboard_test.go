package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestLinkFlags(t *testing.T) {
	req, err := linkFlags{role: "operator", ttl: time.Minute, sessionTTL: time.Hour}.request()
	if err != nil {
		t.Fatal(err)
	}
	if req.GetRole() != swanherdv1.Role_ROLE_OPERATOR || req.GetTtl().AsDuration() != time.Minute || req.GetSessionTtl().AsDuration() != time.Hour {
		t.Errorf("the request is %v", req)
	}
}

func TestDashboardUsage(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"--role root", `"root" is not one of viewer, operator, admin`},
		{"--role unspecified", "is not one of"},
		{"--ttl 25h", "--ttl 25h0m0s is not within 0 and 24h"},
		{"--ttl -1s", "--ttl"},
		{"--session-ttl 0", "--session-ttl"},
		{"--session-ttl 169h", "--session-ttl"},
		{"--session-ttl soon", "--session-ttl"},
		{"extra", "unknown command"},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"--config", filepath.Join(t.TempDir(), "none"), "dashboard"}, strings.Fields(tc.args)...)
		code := Main(t.Context(), args, IO{In: strings.NewReader(""), Out: &out, Err: &errs})
		if code != exitUsage || !strings.Contains(errs.String(), tc.want) {
			t.Errorf("dashboard %s: exit %d with %q, want exit %d and %q", tc.args, code, errs.String(), exitUsage, tc.want)
		}
		if out.Len() > 0 {
			t.Errorf("dashboard %s printed %q", tc.args, out.String())
		}
	}
}
