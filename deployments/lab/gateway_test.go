package lab_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestGatewayStrongSwan takes strongSwan for a partner's gateway: the controller is told of
// it, an edge gets its tunnel, and strongSwan gets the configuration that the controller
// prints, with nothing but the secret filled in. Traffic passes both ways, before and after
// each end has rekeyed.
func TestGatewayStrongSwan(t *testing.T) {
	lab.Require(t, lab.CharonPrograms...)
	t.Parallel()
	programs := buildPrograms(t)
	for name, c := range map[string]gatewayCase{
		"policy-based with a pre-shared key": {
			auth: "psk",
			gateway: `address: 192.0.2.2
    identity: theirs.example
    preSharedKey: {key: networks/lab/preSharedKeys/partner}
    attachments: [{sites: {matchLabels: {role: hub}}}]`,
		},
		"route-based with certificates": {
			auth: "certificate",
			gateway: `address: any
    identity: theirs.example
    certificate: {trustAnchors: ["%s"]}
    attachments: [{edge: networks/lab/edges/berlin}]
    routing: GATEWAY_ROUTING_ROUTE`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.programs = programs
			c.interop = newInterop(t, filepath.Join(programs, "swanherd-edge"), c.auth, "")
			c.run()
		})
	}
}

// buildPrograms builds the controller, its command line and the agent, and returns where.
func buildPrograms(t *testing.T) string {
	t.Helper()
	programs := t.TempDir()
	for name, pkg := range map[string]string{
		"swanherd-server": "./../../server/cmd/swanherd-server", "swanherd": "./../../server/cmd/swanherd", "swanherd-edge": "./../../edge/cmd/swanherd-edge",
	} {
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(programs, name), pkg).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return programs
}

type gatewayCase struct {
	*interop
	programs, auth, gateway string
	control                 *lab.Namespace
}

const gatewayFleet = `networks: [{name: networks/lab}]
profiles: [{name: networks/lab/profiles/partner}]
sites: [{name: networks/lab/sites/berlin, prefixes: [10.1.0.0/24], labels: {role: hub}}]
`

func (c *gatewayCase) run() {
	c.writeCredentials()
	c.startController()
	c.swanherd("apply", "-f", c.write("fleet.yaml", gatewayFleet))
	if c.auth == "psk" {
		c.swanherd("psk", "create", "partner", "--file", filepath.Join(c.dir, "psk"))
	}
	c.startEdge()
	anchor := strings.ReplaceAll(strings.TrimSpace(c.read("charon/x509ca/ca.pem")), "\n", `\n`)
	gateway := "gateways:\n  - name: networks/lab/gateways/partner\n    profile: networks/lab/profiles/partner\n    prefixes: [10.2.0.0/24]\n    forceUdpEncapsulation: true\n    " +
		strings.ReplaceAll(c.gateway, "%s", anchor) + "\n"
	c.swanherd("apply", "-f", c.write("gateway.yaml", gateway))
	if out := c.swanherd("get", "gateways"); !strings.Contains(out, "partner") {
		c.t.Errorf("the gateway is not in the list:\n%s", out)
	}
	c.startCharon()

	c.awaitPing("the tunnel to come up", c.program, c.charon.Program)
	c.ping("at once")
	c.awaitStatus("up")
	if out := c.swanherd("explain", "10.1.0.2", "10.2.0.2"); !strings.Contains(out, "berlin--partner.gw") {
		c.t.Errorf("the explanation lacks the tunnel:\n%s", out)
	}
	for _, what := range [][]string{{"--child", "net"}, {"--ike", "berlin"}} {
		out, err := c.charon.Swanctl(c.ctx, append([]string{"--rekey"}, what...)...)
		if err != nil {
			c.t.Fatalf("rekey %s by strongSwan: %v\n%s", what, err, out)
		}
		c.ping("after strongSwan's rekey of " + what[0])
	}
	c.swanherd("tunnel", "rekey", "berlin--partner.gw")
	c.awaitRekeyed()
	c.ping("after our rekey")
	if out := c.swanherd("get", "psks"); strings.Contains(out, psk) {
		c.t.Errorf("the list of keys has the secret:\n%s", out)
	}
}

// startController starts a controller beside our edge, and signs in.
func (c *gatewayCase) startController() {
	n := lab.New()
	c.t.Cleanup(func() { n.Close() })
	var err error
	c.control, err = n.Add("control")
	c.must(err)
	at := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	c.must(n.Link(lab.End{Host: c.control, Interface: "edges", Addresses: at("10.255.0.1/30")},
		lab.End{Host: c.ours, Interface: "mgmt0", Addresses: at("10.255.0.2/30")}))
	c.runController("10.255.0.1:7444")
}

// runController starts a controller that edges reach at that address, and signs in.
func (c *gatewayCase) runController(edges string) {
	server, err := c.control.Start(nil, nil, filepath.Join(c.programs, "swanherd-server"),
		"--data-dir", filepath.Join(c.dir, "controller"), "--listen", "127.0.0.1:7443", "--edge-listen", edges)
	c.must(err)
	c.t.Cleanup(func() {
		server.Stop(10 * time.Second)
		if c.t.Failed() {
			c.t.Logf("controller:\n%s", server.Output())
		}
	})
	credential := filepath.Join(c.dir, "controller", "admin-credential")
	for {
		if _, err := os.Stat(credential); err == nil {
			break
		}
		select {
		case <-server.Done():
			c.t.Fatalf("the controller ended:\n%s", server.Output())
		case <-c.ctx.Done():
			c.t.Fatalf("the controller does not start:\n%s", server.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
	c.swanherd("login", "127.0.0.1:7443", "--credential", credential, "--network", "lab")
}

// swanherd runs the operator's command line and returns what it printed.
func (c *gatewayCase) swanherd(args ...string) string {
	c.t.Helper()
	argv := append([]string{filepath.Join(c.programs, "swanherd"), "--config", filepath.Join(c.dir, "config")}, args...)
	out, err := c.control.Run(c.ctx, argv...)
	if err != nil {
		c.t.Fatalf("swanherd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if args[0] != "token" {
		c.t.Logf("$ swanherd %s\n%s", strings.Join(args, " "), out)
	}
	return out
}

// startEdge enrols our edge at the site, and waits for it.
func (c *gatewayCase) startEdge() {
	token := strings.TrimSpace(c.swanherd("token", "create", "--site", "berlin"))
	token = token[strings.LastIndexByte(token, '\n')+1:]
	var err error
	c.program, err = c.ours.Start(nil, nil, c.agent, "run", "--state-dir", c.sub("state"), "--edge-id", "berlin",
		"--uplink", "name=wan1,interface=wan1,class=broadband", "--token", token)
	c.must(err)
	c.t.Cleanup(func() {
		c.program.Stop(5 * time.Second)
		if c.t.Failed() {
			c.t.Logf("edge:\n%s", c.program.Output())
		}
	})
	for !strings.Contains(c.swanherd("get", "edges"), "wan1=192.0.2.1") {
		if c.ctx.Err() != nil {
			c.t.Fatal("the edge does not enrol")
		}
	}
}

// startCharon gives strongSwan what the controller prints, and the secret.
func (c *gatewayCase) startCharon() {
	config, err := c.control.Run(c.ctx, "sh", "-c", filepath.Join(c.programs, "swanherd")+" --config "+filepath.Join(c.dir, "config")+
		" gateway config partner --format strongswan 2>"+filepath.Join(c.dir, "notes"))
	if err != nil {
		c.t.Fatalf("print the gateway's configuration: %v\n%s", err, c.read("notes"))
	}
	c.t.Logf("$ swanherd gateway config partner --format strongswan\n%s%s", c.read("notes"), config)
	var authority strings.Builder
	for line := range strings.Lines(config) {
		if pem := strings.TrimPrefix(line, "# "); pem != line && (authority.Len() > 0 || strings.HasPrefix(pem, "-----BEGIN")) && !strings.HasPrefix(pem, " ") {
			authority.WriteString(pem)
		}
	}
	if c.auth == "certificate" {
		c.write("charon/x509ca/swanherd.pem", authority.String())
	}
	config = strings.NewReplacer("PRE-SHARED-KEY", psk, "GATEWAY-CERTIFICATE", "theirs.pem").Replace(config)
	c.charon, err = lab.StartCharon(c.ctx, c.theirs, c.sub("charon"), config)
	if err != nil {
		c.t.Fatalf("%v with\n%s", err, config)
	}
	for _, argv := range routesIn(config) {
		if out, err := c.theirs.Run(c.ctx, argv...); err != nil {
			c.t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	c.t.Cleanup(func() {
		c.charon.Stop(5 * time.Second)
		if c.t.Failed() {
			c.t.Logf("strongSwan:\n%s\nwith\n%s", c.charon.Output(), config)
		}
	})
}

// routesIn are the routes into tunnel interfaces that the configuration of a route-based
// gateway asks for in its comments. As the kernel may have no ESP, charon does it itself
// here, and its one interface takes the place of those. It leads all into that, whatever
// it is told: the first rule has what there is a route to go there.
func routesIn(config string) (commands [][]string) {
	for line := range strings.Lines(config) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "#   ip route add "); ok {
			commands = append(commands, strings.Fields("ip route add "+strings.Replace(command, "dev swan1", "dev ipsec0", 1)))
		}
	}
	if len(commands) > 0 {
		commands = append(commands, strings.Fields("ip rule add pref 100 lookup main suppress_prefixlength 0"))
	}
	return commands
}

// awaitStatus waits for what the controller says of the tunnel.
func (c *gatewayCase) awaitStatus(want string) {
	c.t.Helper()
	for {
		out := c.swanherd("get", "tunnels")
		if fields := strings.Fields(out[strings.IndexByte(out, '\n')+1:]); len(fields) > 1 && fields[0] == "berlin--partner.gw" && strings.EqualFold(fields[1], want) {
			return
		}
		if c.ctx.Err() != nil {
			c.t.Fatalf("the tunnel is not %s:\n%s", want, out)
		}
	}
}

// awaitRekeyed passes traffic until our edge has rekeyed.
func (c *gatewayCase) awaitRekeyed() {
	c.t.Helper()
	for !strings.Contains(c.program.Output(), "SA rekeyed") {
		if c.ctx.Err() != nil {
			c.t.Fatal("waited in vain for our rekey")
		}
		c.ping("during our rekey")
	}
}
