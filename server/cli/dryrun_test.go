package cli

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// notDry are the commands that create, update or delete and take no --dry-run, with the reason.
var notDry = map[string]string{
	"swanherd token create":    "it is for the secret, which is of a token that is there",
	"swanherd apitoken create": "likewise",
	"swanherd context set":     "of this computer alone",
}

// Whatever creates, changes or deletes a resource can be checked before.
func TestChangesCanBeChecked(t *testing.T) {
	verbs := map[string]bool{"create": true, "update": true, "delete": true, "set": true, "apply": true, "grant": true, "revoke": true, "quarantine": true, "release": true}
	seen := 0
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
		if !verbs[cmd.Name()] || cmd.HasSubCommands() {
			return
		}
		seen++
		if has := cmd.Flags().Lookup("dry-run") != nil; has == (notDry[cmd.CommandPath()] != "") {
			t.Errorf("%s: --dry-run %v; give it the flag with mayDryRun, or a reason in notDry", cmd.CommandPath(), has)
		}
	}
	visit(newRoot(IO{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}))
	if seen < 15 {
		t.Errorf("%d commands", seen)
	}
}

// With --dry-run the controller is asked to check, and what it cannot check is not sent.
func TestOnlyCheckSendsNoChange(t *testing.T) {
	var errs strings.Builder
	s := &session{IO: IO{Err: &errs}, dryRun: true}
	var sent any
	send := func(_ context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		sent = req
		return nil
	}
	site := &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/berlin"}
	if err := s.onlyCheck(t.Context(), swanherdv1.TopologyService_DeleteSite_FullMethodName, site, nil, nil, send); err != nil || sent != any(site) || !site.GetValidateOnly() || !strings.Contains(errs.String(), "nothing is changed") {
		t.Errorf("%v, %v, %q", err, site, errs.String())
	}
	sent = nil
	if err := s.onlyCheck(t.Context(), swanherdv1.AlertService_TestWebhookSink_FullMethodName, &swanherdv1.TestWebhookSinkRequest{}, nil, nil, send); exitCode(err) != exitUsage || sent != nil {
		t.Errorf("what cannot be checked: %v, sent %v", err, sent)
	}
	if err := s.onlyCheck(t.Context(), swanherdv1.TopologyService_GetSite_FullMethodName, &swanherdv1.GetSiteRequest{}, nil, nil, send); err != nil || sent == nil {
		t.Errorf("what reads: %v, sent %v", err, sent)
	}
}
