package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "embed"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/deployments/lab"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/cli"
)

//go:embed fleet.yaml
var fleetYAML string

const network = "networks/demo"

// demo is the demonstration while it runs, in its namespaces.
type demo struct {
	options
	began    time.Time
	progress io.Writer // standard error with -o json, else standard output
	// operators is where browsers and people connect; what they send goes on
	// to the controller in its namespace.
	operators net.Listener
	world     *world
	server    *lab.Program
	conn      *grpc.ClientConn
	topology  swanherdv1.TopologyServiceClient
	fleet     swanherdv1.FleetServiceClient
	access    swanherdv1.AccessServiceClient
}

// runInside is the second instance: it is in the namespaces.
func runInside(ctx context.Context, o options) (err error) {
	outside, err := net.FileListener(os.NewFile(listenerFD, "operator listener"))
	if err != nil {
		return fmt.Errorf("take over the operator listener: %w", err)
	}
	d := &demo{options: o, began: time.Now(), progress: os.Stdout, operators: outside}
	if o.output == "json" {
		d.progress = os.Stderr
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			d.printLogs()
		}
		d.stop()
	}()
	result, err := d.show(ctx)
	if err != nil {
		return err
	}
	if err := result.print(os.Stdout, o.output); err != nil {
		return err
	}
	if o.once {
		return result.verdict()
	}
	fmt.Fprintf(d.progress, `
Everything stays up until Ctrl-C; logs and state are in %[1]s. In another terminal:

  go run ./server/cmd/swanherd login %[2]s --credential %[1]s/controller/admin-credential --network demo
  go run ./server/cmd/swanherd watch
  go run ./edge/cmd/swanherd-edge status --state-dir %[1]s/berlin
`, o.dir, d.operators.Addr())
	if o.uplinks == 2 {
		fmt.Fprintf(d.progress, "  go run ./server/cmd/swanherd tunnel paths\n\nEnter cuts the first line of %s, and joins it again.\n", d.world.sites[0].name)
		go d.cutByHand(os.Stdin)
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(d.progress, "\nleaving")
		return nil
	case <-d.server.Done():
		return errors.New("the controller ended by itself")
	}
}

// show brings everything up, step by step, and returns what there is to see.
func (d *demo) show(ctx context.Context) (*result, error) {
	manifest, err := cli.LoadManifest([]string{"-"}, strings.NewReader(fleetYAML))
	if err != nil {
		return nil, err
	}
	if d.world, err = newWorld(manifest.GetSites(), d.line); err != nil {
		return nil, err
	}
	want := len(d.world.sites) * (len(d.world.sites) - 1) / 2
	if d.uplinks == 2 {
		if err := d.world.addSecond(); err != nil {
			return nil, err
		}
		manifest.GetMeshes()[0].Paths = &swanherdv1.MeshPaths{Pairing: swanherdv1.MeshPaths_PAIRING_SAME_CLASS}
		want *= 2
	}
	d.step("emulated WAN with %d sites", len(d.world.sites))
	if err := d.startController(ctx); err != nil {
		return nil, err
	}
	applied, err := d.topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: manifest.Manifest})
	if err != nil {
		return nil, fmt.Errorf("apply fleet.yaml: %w", manifest.Locate(err))
	}
	d.step("fleet.yaml applied: %d resources at revision %d", len(applied.GetChanges()), applied.GetRevision())
	for _, s := range d.world.sites {
		if err := d.startEdge(ctx, s); err != nil {
			return nil, err
		}
	}
	d.step("%d edges started, each with a one-time token", len(d.world.sites))
	tunnels, err := d.awaitTunnels(ctx, want)
	if err != nil {
		return nil, err
	}
	upAfter := time.Since(d.began)
	d.step("all %d tunnels are up", len(tunnels))
	r := &result{UpAfter: upAfter}
	if r.Pings, err = d.pingAll(ctx); err != nil {
		return nil, err
	}
	d.step("%d pings from LAN to LAN answered", len(r.Pings))
	if r.Tunnels, err = d.awaitCounters(ctx); err != nil {
		return nil, err
	}
	link, err := d.access.CreateLoginLink(ctx, &swanherdv1.CreateLoginLinkRequest{Role: swanherdv1.Role_ROLE_OPERATOR})
	if err != nil {
		return nil, fmt.Errorf("make a login link: %w", err)
	}
	r.Dashboard = link.GetUrl()
	if d.uplinks == 2 {
		if r.Switch, err = d.loseLine(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.progress, "%6.2fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// Listeners of the controller in its namespace: for operators, for metrics.
const (
	operatorAddress = "127.0.0.1:7443"
	metricsAddress  = "127.0.0.1:7445"
)

// startController starts the controller in a namespace of its own and connects
// to it as the administrator that its first start makes.
func (d *demo) startController(ctx context.Context) error {
	go forward(d.operators, d.world.controller)
	if err := d.runController(); err != nil {
		return err
	}
	loopback, err := listenLoopback()
	if err != nil {
		return err
	}
	go forward(loopback, d.world.controller)
	credential := filepath.Join(d.dir, "controller", "admin-credential")
	if err := d.connect(ctx, credential, loopback.Addr().String()); err != nil {
		return err
	}
	d.step("controller up, with etcd inside")
	return nil
}

// listenLoopback listens for this program's own calls. In a new network
// namespace the loopback is still down.
func listenLoopback() (net.Listener, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find the loopback: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(lo); err != nil {
			return nil, fmt.Errorf("set the loopback up: %w", err)
		}
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

func (d *demo) runController() error {
	args := []string{
		"--data-dir", filepath.Join(d.dir, "controller"),
		"--listen", operatorAddress,
		"--advertise-url", "https://" + d.operators.Addr().String(),
		"--edge-listen", fmt.Sprintf("%s:%d", controllerAddr, edgePort),
		"--metrics-listen", metricsAddress,
		"--counter-interval", "1s",
	}
	if d.confirmWithin != 0 {
		args = append(args, "--confirm-within", d.confirmWithin.String())
	}
	var err error
	d.server, err = d.program(d.world.controller, "controller", "swanherd-server", args...)
	return err
}

// connect waits for the credential that the controller writes at its first
// start, and for the controller to answer to it.
func (d *demo) connect(ctx context.Context, credential, address string) error {
	err := d.poll(ctx, 30*time.Second, "the controller to start", func() (bool, error) {
		_, err := os.Stat(credential)
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	x, err := cli.ReadCredential(credential)
	if err != nil {
		return err
	}
	x.Server = address
	if d.conn, err = cli.Connect(x); err != nil {
		return err
	}
	d.topology = swanherdv1.NewTopologyServiceClient(d.conn)
	d.fleet = swanherdv1.NewFleetServiceClient(d.conn)
	d.access = swanherdv1.NewAccessServiceClient(d.conn)
	return d.awaitController(ctx)
}

func (d *demo) awaitController(ctx context.Context) error {
	return d.poll(ctx, 30*time.Second, "the controller to answer", func() (bool, error) {
		_, err := d.access.WhoAmI(ctx, &swanherdv1.WhoAmIRequest{}, grpc.WaitForReady(true))
		if status.Code(err) == codes.Unavailable {
			return false, nil
		}
		return err == nil, err
	})
}

// program runs one of the programs that were built, with its output in a file.
func (d *demo) program(ns *lab.Namespace, name, program string, args ...string) (*lab.Program, error) {
	out, err := os.Create(filepath.Join(d.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p, err := ns.Start(out, nil, append([]string{filepath.Join(d.dir, program)}, args...)...)
	if err != nil {
		out.Close()
		return nil, err
	}
	go func() {
		<-p.Done()
		out.Close()
	}()
	return p, nil
}

// startEdge makes a token good for one edge at the site and starts the agent
// with it; the agent does the rest.
func (d *demo) startEdge(ctx context.Context, s *site) error {
	token, err := d.access.CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent:          network,
		EnrollmentToken: &swanherdv1.EnrollmentToken{Site: network + "/sites/" + s.name},
	})
	if err != nil {
		return fmt.Errorf("make a token for %s: %w", s.name, err)
	}
	return d.runEdge(s, "--token", token.GetSecret())
}

func (d *demo) runEdge(s *site, args ...string) error {
	var err error
	argv := []string{
		"run",
		"--state-dir", filepath.Join(d.dir, s.name),
		"--uplink", "name=wan1,interface=wan1,class=broadband",
	}
	if d.uplinks == 2 {
		argv = append(argv, "--uplink", "name=wan2,interface=wan2,class=lte,cost=10")
	}
	s.agent, err = d.program(s.edge, s.name, "swanherd-edge", append(argv, args...)...)
	return err
}

// awaitTunnels waits until want tunnels exist and all are up.
func (d *demo) awaitTunnels(ctx context.Context, want int) ([]*swanherdv1.Tunnel, error) {
	var tunnels []*swanherdv1.Tunnel
	err := d.poll(ctx, 60*time.Second, "the tunnels to come up", func() (bool, error) {
		var err error
		tunnels, err = d.listTunnels(ctx)
		up := 0
		for _, t := range tunnels {
			if t.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP {
				up++
			}
		}
		return up == want, err
	})
	if err != nil {
		for _, t := range tunnels {
			fmt.Fprintf(d.progress, "  %s %s %s\n", t.GetName(), t.GetStatus(), t.GetReason())
		}
	}
	return tunnels, err
}

// awaitCounters waits until the edges have reported what the pings sent.
func (d *demo) awaitCounters(ctx context.Context) ([]*swanherdv1.Tunnel, error) {
	var tunnels []*swanherdv1.Tunnel
	err := d.poll(ctx, 30*time.Second, "the edges to report traffic", func() (bool, error) {
		var err error
		tunnels, err = d.listTunnels(ctx)
		for _, t := range tunnels {
			if strings.Contains(t.GetName(), ".wan2.") {
				continue // it stands by
			}
			for _, c := range t.GetA().GetReport().GetChildSas() {
				if c.GetCounters().GetPacketsOut() == 0 {
					return false, err
				}
			}
		}
		return true, err
	})
	return tunnels, err
}

func (d *demo) listTunnels(ctx context.Context) ([]*swanherdv1.Tunnel, error) {
	resp, err := d.fleet.ListTunnels(ctx, &swanherdv1.ListTunnelsRequest{Parent: network, PageSize: 1000})
	if err != nil {
		return nil, fmt.Errorf("list tunnels: %w", err)
	}
	return resp.GetTunnels(), nil
}

// pingAll pings from LAN to LAN across every tunnel, IPv4 and IPv6.
func (d *demo) pingAll(ctx context.Context) ([]ping, error) {
	var pings []ping
	for i, from := range d.world.sites {
		for _, to := range d.world.sites[i+1:] {
			for _, pair := range [][2]netip.Addr{{from.lanAddr4, to.lanAddr4}, {from.lanAddr6, to.lanAddr6}} {
				r, err := from.lan.Ping(ctx, pair[0], pair[1], 3)
				if err != nil {
					return nil, err
				}
				pings = append(pings, ping{From: from.name, To: to.name, Address: pair[1].String(), Sent: r.Sent, Received: r.Received, Average: r.Average})
			}
		}
	}
	return pings, nil
}

// poll asks until done says yes, for at most patience.
func (d *demo) poll(ctx context.Context, patience time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if name := d.ended(); name != "" {
			return fmt.Errorf("waiting for %s: %s", what, name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v in vain for %s", patience, what)
		case <-tick.C:
		}
	}
}

// ended says which program is no longer running, and how it ended.
func (d *demo) ended() string {
	programs := map[string]*lab.Program{"the controller": d.server}
	for _, s := range d.world.sites {
		programs["the edge at "+s.name] = s.agent
	}
	for name, p := range programs {
		if p == nil {
			continue
		}
		select {
		case <-p.Done():
			return fmt.Sprintf("%s ended by itself: %v", name, p.Err())
		default:
		}
	}
	return ""
}

// stop ends everything in the order in which a person would.
func (d *demo) stop() {
	if d.conn != nil {
		d.conn.Close()
	}
	if d.world == nil {
		return
	}
	var wait sync.WaitGroup
	for _, s := range d.world.sites {
		if s.agent != nil {
			wait.Go(func() { s.agent.Stop(5 * time.Second) })
		}
	}
	wait.Wait()
	if d.server != nil {
		d.server.Stop(10 * time.Second)
	}
	d.world.close()
}

// printLogs shows the end of each program's output, for a failure.
func (d *demo) printLogs() {
	if d.server != nil {
		fmt.Fprintf(os.Stderr, "--- controller\n%s", lastLines(d.server.Output()))
	}
	if d.world == nil {
		return
	}
	for _, s := range d.world.sites {
		if s.agent != nil {
			fmt.Fprintf(os.Stderr, "--- edge at %s\n%s", s.name, lastLines(s.agent.Output()))
		}
	}
}

func lastLines(text string) string {
	const keep = 25
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-keep-1):], "")
}

// forward passes connections on to the controller, which is in another namespace.
func forward(l net.Listener, controller *lab.Namespace) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			var to net.Conn
			err := controller.Do(func() (err error) {
				to, err = net.Dial("tcp", operatorAddress)
				return err
			})
			if err != nil {
				return
			}
			defer to.Close()
			go func() {
				io.Copy(to, from)
				to.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(from, to)
		}()
	}
}
