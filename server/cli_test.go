package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/cli"
)

// terminal is an operator's command line, signed in to a controller.
type terminal struct {
	c      *controller
	config string
}

func (c *controller) terminal() *terminal {
	c.t.Helper()
	x := &terminal{c: c, config: filepath.Join(c.t.TempDir(), "config.yaml")}
	if _, stderr, code := x.run("", "login", c.s.Info().OperatorAddr.String(), "--ca-pin", "sha256:"+c.s.Info().CAPin, "--token", c.token, "--network", "demo"); code != 0 {
		c.t.Fatalf("login: %s", stderr)
	}
	return x
}

// run runs one command on the text as its standard input.
func (x *terminal) run(in string, args ...string) (stdout, stderr string, code int) {
	x.c.t.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(x.c.t.Context(), append(args, "--config", x.config), cli.IO{In: strings.NewReader(in), Out: &out, Err: &errs})
	return out.String(), errs.String(), code
}

// says runs a command and checks its exit code and parts of what it says.
func (x *terminal) says(code int, in, command string, parts ...string) {
	x.c.t.Helper()
	stdout, stderr, got := x.run(in, strings.Fields(command)...)
	if got != code {
		x.c.t.Errorf("swanherd %s: exit code %d, want %d:\n%s%s", command, got, code, stdout, stderr)
	}
	for _, part := range parts {
		if not, absent := strings.CutPrefix(part, "!"); absent && strings.Contains(stdout+stderr, not) || !absent && !strings.Contains(stdout+stderr, part) {
			x.c.t.Errorf("swanherd %s: want %q in\n%s%s", command, part, stdout, stderr)
		}
	}
}

func fleetFile(c *controller) string {
	c.t.Helper()
	b, err := json.Marshal(map[string]any{
		"networks": []any{map[string]any{"name": "networks/demo"}},
		"profiles": []any{map[string]any{"name": "networks/demo/profiles/default"}},
		"sites": []any{
			map[string]any{"name": "networks/demo/sites/berlin", "prefixes": []string{"10.1.0.0/16"}, "labels": map[string]string{"region": "emea"}},
			map[string]any{"name": "networks/demo/sites/lima", "prefixes": []string{"10.2.0.0/16"}, "labels": map[string]string{"region": "amer"}},
		},
		"meshes": []any{map[string]any{
			"name": "networks/demo/meshes/all", "profile": "networks/demo/profiles/default",
			"fullMesh": map[string]any{"sites": map[string]any{"all": true}},
		}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

func TestCommandLineListsAndDeletes(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(0, fleetFile(c), "apply -f -", "5 created")
	x.says(0, "", "get sites --filter labels.region=amer", "lima", "!berlin")
	x.says(3, "", "get sites --filter nothing=1", `filter: "nothing" is no field of Site`)
	x.says(64, "", "get sites berlin --filter a=b", "for lists")
	x.says(3, "", "delete profile default", "networks/demo/meshes/all: uses networks/demo/profiles/default")
	x.says(0, "", "delete site lima --dry-run", "would be deleted")
	x.says(0, "", "delete site lima", "lima deleted")
	x.says(4, "", "delete site lima", "does not exist")
	x.says(0, "", "delete site lima --allow-missing")
	x.says(0, "", "events --filter action=site.delete", "site.delete", "!site.create")
}

// What is checked alone is not done, whatever it is about.
func TestCommandLineOnlyChecks(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(0, fleetFile(c), "apply -f -", "5 created")
	const dry, done = " --dry-run", "nothing is changed"
	rule := `{"name":"networks/demo/alertRules/gone","condition":"ALERT_CONDITION_EDGE_OFFLINE","severity":"ALERT_SEVERITY_WARNING"}`
	site := `{"sites":[{"name":"networks/demo/sites/berlin","displayName":"Berlin"}]}`
	for _, v := range []struct{ create, in, list, shows, change, changed, remove string }{
		{"device create X-42 --site berlin", "", "device list", "X-42", "device update X-42 --description spare", "spare", "device delete X-42"},
		{"role grant viewer group:noc", "", "role list", "group:noc", "", "", ""},
		{"assertion create tills 10.1.0.0/16 10.2.0.0/16", "", "get assertions", "tills", "", "", "delete assertion tills"},
		{"webhook create noc --url https://receiver.invalid/alerts", "", "get webhooks", "noc", "", "", "delete webhook noc"},
		{"psk create partner --generate", "", "get psks", "partner", "psk set partner --generate", "", "delete psk partner"},
		{"changeset create later -f -", site, "changeset list", "later", "", "", "changeset delete later"},
		{"alert apply -f -", rule, "get alertrules", "gone", "", "", "delete alertrule gone"},
	} {
		x.says(0, v.in, v.create+dry, done, "!whsec_")
		x.says(0, "", v.list, "!"+v.shows)
		x.says(0, v.in, v.create, "!"+done)
		x.says(0, "", v.list, v.shows)
		if v.change != "" {
			x.says(0, "", v.change+dry, done)
		}
		if v.changed != "" {
			x.says(0, "", v.list, "!"+v.changed)
		}
		if v.remove != "" {
			x.says(0, "", v.remove+dry, "would be deleted")
			x.says(0, "", v.list, v.shows)
		}
	}
	e := c.enrolled("berlin")
	x.says(0, "", "edge quarantine berlin"+dry, done)
	if got, err := c.topology().GetEdge(t.Context(), &swanherdv1.GetEdgeRequest{Name: e.name}); err != nil || got.GetDisabled() {
		t.Errorf("the edge is %v, %v", got, err)
	}
}

// What an operator does about edges and their certificates, on the command line.
func TestCommandLineAdmitsAndRevokes(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(0, fleetFile(c), "apply -f -", "5 created")
	x.says(64, "", "token create", "--site", "--create-site")
	x.says(3, "", "token create --site berlin --from 10.0.0.0/99", "allowed_cidrs[0]")
	token, _, code := x.run("", "token", "create", "--site", "berlin", "--approval", "--from", "127.0.0.0/8")
	if code != 0 {
		t.Fatal(token)
	}
	x.says(0, "", "token list", "site berlin", "0/1", "127.0.0.0/8", "approval", "!swe_")
	e := c.newEdge()
	resp, err := e.tryEnroll(strings.TrimSpace(token), "")
	if err != nil {
		t.Fatal(err)
	}
	request := resp.GetPending().GetEnrollmentRequest()
	id := request[strings.LastIndexByte(request, '/')+1:]
	x.says(0, "", "enrollment list", id, "PENDING", "127.0.0.1", resp.GetPending().GetKeyFingerprint())
	x.says(0, "", "enrollment approve "+id, "berlin", "approved")
	x.says(3, "", "enrollment deny "+id, "decided by token:admin already")
	if resp, err = e.poll(request); err != nil {
		t.Fatal(err)
	}
	e.take(resp)
	e.open()
	e.until()

	x.says(0, "", "device create SN-7 --site lima --description router", "registered")
	x.says(3, "", "device create sn-7 --site lima", "registered with serial number sn-7 already")
	x.says(0, "", "device list", "SN-7", "router")
	x.says(3, "", "device create SN-8 --site lima --ek-fingerprint x", "device.ek_fingerprint")
	x.says(0, "", "token create --site lima --attestation", "swe_")
	x.says(0, "", "token list", "attestation")
	x.says(0, "", "device delete SN-7", "deleted")

	x.says(0, "", "edge quarantine berlin", "disabled true")
	x.says(0, "", "edge release berlin", "disabled false")
	x.says(0, "", "cert list", "berlin", "CONTROL", "IKE")
	x.says(0, "", "cert list --within 1h", "!CONTROL")
	x.says(0, "", "ca show", "pin sha256:")
	x.says(0, "", "ca rotate --external", "BEGIN CERTIFICATE REQUEST")
	x.says(3, "", "ca rotate", "being replaced already")
	x.says(3, "", "ca force", "import what that signed")
	x.says(0, "", "ca cancel", "!REQUEST")
	x.says(3, "", "ca rotate --signed-by corp", "external_authority: the controller is configured with none (--external-authorities)")
	x.says(64, "", "ca force", "is not being replaced")
	x.says(0, "", "edge revoke berlin --reason stolen", "2 certificates revoked")
	x.says(0, "", "cert revocations", "berlin", "0/0", "stolen")
	x.says(0, "", "edge replace berlin", "swe_")
	x.says(4, "", "edge revoke nobody", "does not exist")
	x.says(64, "", "apitoken create --role god", "viewer, operator, admin")
	x.says(0, "", "apitoken create --role viewer --in demo --ttl 1h", "swa_")
	x.says(0, "", "apitoken list", "VIEWER", "demo", "!swa_")
	x.says(0, "", "apitoken rotate self --grace 1m", "swa_")
}

func TestCommandLinePlans(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	file := fleetFile(c)
	x.says(2, file, "plan -f -", "networks/demo/sites/lima created", "tunnels: 0 added")
	x.says(4, "", "get site lima", "does not exist")
	x.says(0, file, "apply -f -", "5 created")
	x.says(0, file, "plan -f -", "!created")
	x.says(0, file, "diff -f -", "!---")
	for _, site := range []string{"berlin", "lima"} {
		c.enrolled(site)
	}
	c.planned("networks/demo")
	moved := strings.Replace(file, "10.2.0.0/16", "10.3.0.0/16", 1)
	x.says(2, moved, "plan -f -", "networks/demo/sites/lima updated (prefixes)", "berlin--lima", "rekeyed", "children.local_ts, children.remote_ts",
		"10.2.0.0/16", "10.3.0.0/16", "tunnels: 0 added, 0 removed, 0 interrupted, 1 rekeyed, 0 updated; edges: 2 touched; sites: 1 reach less, 1 reach more")
	x.says(2, moved, "diff -f -", "--- stored/networks/demo/sites/lima", "-    - 10.2.0.0/16", "+    - 10.3.0.0/16", "!etag")
	x.says(2, moved, "plan -f - -o json", `"EFFECT_REKEYED"`)
	small := `{"networks":[{"name":"networks/demo"}]}`
	x.says(2, small, "plan -f - --prune", "networks/demo/meshes/all deleted", "berlin--lima   removed", "edges: 2 touched")
	x.says(2, small, "plan -f - --prune -l region=amer", "sites/lima deleted", "!sites/berlin", "berlin   10.2.0.0/16")
	x.says(64, small, "plan -f - -l region=amer", "give that too")
	x.says(64, "", "plan", "give the files")
}

func TestCommandLineExplains(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(0, fleetFile(c), "apply -f -", "5 created")
	c.enrolled("berlin")
	x.says(1, "", "explain 10.1.0.5 10.2.0.5", "no path: site lima has no edge; enrol one")
	c.enrolled("lima")
	c.planned("networks/demo")
	x.says(0, "", "explain 10.1.0.5 10.2.0.5", "berlin--lima", "10.1.0.0/16 > 10.2.0.0/16", "reachable: over a tunnel of its own")
	x.says(1, "", "explain 10.1.0.5 192.168.0.1", "no site or gateway of networks/demo has a prefix with 192.168.0.1")
	x.says(3, "", "explain 10.1.0.5 nowhere", "destination: ")
	resp, body := c.rest("GET", "/v1/networks/demo:explain?source=10.1.0.5&destination=10.2.0.5", c.token, "")
	if resp.StatusCode != 200 || !strings.Contains(body, `"reachable":true`) {
		t.Errorf("by REST: %d %s", resp.StatusCode, body)
	}
	with := func(paths string) string {
		return strings.Replace(fleetFile(c), `"fullMesh"`, `"paths":`+paths+`,"fullMesh"`, 1)
	}
	x.says(3, with(`{"maxPaths":3}`), "apply -f -", "meshes[0].paths.max_paths: is for meshes of several paths")
	x.says(64, with(`{"pairing":"PAIRING_ALL","maxPaths":1}`), "apply -f -", "meshes[0].paths.max_paths: max_paths is 0 for the default, or 2 to 8")
	x.says(0, with(`{"pairing":"PAIRING_ALL"}`), "apply -f -", "networks/demo/meshes/all updated")
	x.says(0, "", "get mesh all -o yaml", "pairing: PAIRING_ALL")
}

// until is a writer that calls done, once, when what was written has text.
type until struct {
	text string
	done func()
	seen strings.Builder
}

func (u *until) Write(b []byte) (int, error) {
	if u.seen.Write(b); strings.Contains(u.seen.String(), u.text) && u.done != nil {
		u.done()
		u.done = nil
	}
	return len(b), nil
}

func TestCommandLineWatches(t *testing.T) {
	c := startController(t)
	c.apply()
	x := c.terminal()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var changing sync.WaitGroup
	synced := &until{text: "rome", done: func() { changing.Go(func() { c.setSite("wien", "Wien") }) }}
	changed := &until{text: "UPSERTED  wien", done: cancel}
	code := cli.Main(ctx, []string{"get", "sites", "--watch", "--config", x.config}, cli.IO{Out: io.MultiWriter(synced, changed), Err: io.Discard})
	changing.Wait()
	if code != 0 || ctx.Err() != context.Canceled {
		t.Errorf("exit code %d, %v; it showed\n%s", code, ctx.Err(), changed.seen.String())
	}
}

// Several kinds are watched together, or all.
func TestCommandLineWatchesKinds(t *testing.T) {
	c := startController(t)
	c.apply()
	c.alertRule("networks/demo", "gone", offlineRule())
	e := c.enrolled("berlin")
	e.open()
	x := c.terminal()
	watches := func(command, last string, happens func()) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var happening sync.WaitGroup
		synced := &until{text: "berlin", done: func() { happening.Go(happens) }}
		shown := &until{text: last, done: cancel}
		code := cli.Main(ctx, append(strings.Fields(command), "--config", x.config), cli.IO{Out: io.MultiWriter(synced, shown), Err: io.Discard})
		happening.Wait()
		if code != 0 || ctx.Err() != context.Canceled {
			t.Errorf("swanherd %s: exit code %d, %v; it showed\n%s", command, code, ctx.Err(), shown.seen.String())
		}
	}
	watches("watch edges alerts jobs", "UPSERTED  job  ", func() {
		if _, err := c.jobs().CreateJob(t.Context(), &swanherdv1.CreateJobRequest{Parent: "networks/demo", Job: pingJob(e.name)}); err != nil {
			t.Error(err)
		}
	})
	watches("watch all", "REMOVED   alertrule  networks/demo/alertRules/gone", func() {
		if _, err := c.alerts().DeleteAlertRule(t.Context(), &swanherdv1.DeleteAlertRuleRequest{Name: "networks/demo/alertRules/gone"}); err != nil {
			t.Error(err)
		}
	})
	watches("watch certificateauthorities edges", "UPSERTED  certificateauthority  networks/demo/certificateAuthority", func() {
		if _, err := c.certificates().RotateCertificateAuthority(t.Context(), &swanherdv1.RotateCertificateAuthorityRequest{Name: "networks/demo/certificateAuthority"}); err != nil {
			t.Error(err)
		}
	})
}

// What is watched need not be a site.
func TestCommandLineWatchesSegments(t *testing.T) {
	c := startController(t)
	c.apply()
	_, err := c.topology().CreateSegment(t.Context(), &swanherdv1.CreateSegmentRequest{Parent: "networks/demo", SegmentId: "lab", Segment: &swanherdv1.Segment{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	shown := &until{text: "UPSERTED  lab", done: cancel}
	code := cli.Main(ctx, []string{"get", "segments", "--watch", "--config", c.terminal().config}, cli.IO{Out: shown, Err: io.Discard})
	if code != 0 || ctx.Err() != context.Canceled {
		t.Errorf("exit code %d, %v; it showed\n%s", code, ctx.Err(), shown.seen.String())
	}
}
