package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protoyaml"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// errChanges is not an error: it makes the exit code say that something changes.
var errChanges = errors.New("something changes")

// manifestFlags are the flags of commands that take files.
type manifestFlags struct {
	files       []string
	prune       bool
	pruneLabels map[string]string
}

func (f *manifestFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	flags.BoolVar(&f.prune, "prune", false, "delete what the files' networks have and the files do not name")
	flags.StringToStringVarP(&f.pruneLabels, "prune-labels", "l", nil, "with --prune: only what carries these labels, key=value")
}

// send has the server apply the files, or only check and plan them.
func (f *manifestFlags) send(ctx context.Context, s *session, c *client, dryRun bool) (*Manifest, *swanherdv1.ApplyResponse, error) {
	m, err := LoadManifest(f.files, s.In)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.topology.Apply(ctx, &swanherdv1.ApplyRequest{
		Manifest: m.Manifest, Prune: f.prune, PruneLabels: f.pruneLabels, ValidateOnly: dryRun,
	})
	if err != nil {
		return nil, nil, m.Locate(err)
	}
	return m, resp, nil
}

// check refuses flags that make no sense together.
func (f *manifestFlags) check() error {
	if len(f.files) == 0 {
		return usagef("give the files with -f")
	}
	if len(f.pruneLabels) > 0 && !f.prune {
		return usagef("--prune-labels is for --prune; give that too")
	}
	return nil
}

func newPlan(s *session) *cobra.Command {
	var f manifestFlags
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what applying files would do to the fleet",
		Long: `Show what applying files would do to the fleet: to resources, tunnels, edges
and what sites can reach. Nothing is stored.

The exit code is 0 when nothing would change, 2 when something would.`,
		Example: "  swanherd plan -f fleet.yaml\n  swanherd plan -f fleet/ --prune -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.preview(cmd.Context(), &f, func(_ *client, _ *Manifest, resp *swanherdv1.ApplyResponse) error {
				if s.output != "table" {
					return s.printMessage(resp)
				}
				return s.printPlan(resp)
			})
		},
	}
	f.add(cmd)
	return cmd
}

func newDiff(s *session) *cobra.Command {
	var f manifestFlags
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show how resources in files differ from what is stored",
		Long: `Show how resources in files differ from what is stored, as YAML before and after.

The exit code is 0 when nothing differs, 2 when something does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.preview(cmd.Context(), &f, func(c *client, m *Manifest, resp *swanherdv1.ApplyResponse) error {
				for _, change := range resp.GetChanges() {
					if err := s.printDifference(cmd.Context(), c, m, change); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f.add(cmd)
	return cmd
}

// preview plans files and has show show it.
func (s *session) preview(ctx context.Context, f *manifestFlags, show func(*client, *Manifest, *swanherdv1.ApplyResponse) error) error {
	if err := f.check(); err != nil {
		return err
	}
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.close()
	m, resp, err := f.send(ctx, s, c, true)
	if err != nil {
		return err
	}
	if err := show(c, m, resp); err != nil {
		return err
	}
	for _, change := range resp.GetChanges() {
		if change.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED {
			return errChanges
		}
	}
	return nil
}

// maxShown is how many rows of a plan the table shows.
const maxShown = 40

func (s *session) printPlan(resp *swanherdv1.ApplyResponse) error {
	s.printChanges(resp)
	p := resp.GetPlan()
	if len(p.GetTunnels()) > 0 {
		fmt.Fprintln(s.Out)
		t := newTable(s.Out, "TUNNEL", "EFFECT", "BECAUSE OF")
		for _, c := range p.GetTunnels()[:min(maxShown, len(p.GetTunnels()))] {
			t.row(base(c.GetTunnel()), strings.ToLower(enumWord(c.GetEffect())), strings.Join(c.GetReasons(), ", "))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(p.GetReachability()) > 0 {
		fmt.Fprintln(s.Out)
		t := newTable(s.Out, "SITE", "NO LONGER REACHES", "NOW REACHES")
		for _, c := range p.GetReachability()[:min(maxShown, len(p.GetReachability()))] {
			site := base(c.GetSite())
			if c.GetSegment() != "" {
				site += ", segment " + base(c.GetSegment())
			}
			t.row(site, some(c.GetLostPrefixes()), some(c.GetGainedPrefixes()))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(p.GetTunnels()) > maxShown || len(p.GetReachability()) > maxShown {
		fmt.Fprintln(s.Out, "more with -o json")
	}
	fmt.Fprintf(s.Out, "\n%s\n", summary(p))
	return nil
}

// some are the first of many prefixes.
func some(prefixes []string) string {
	const most = 4
	if len(prefixes) <= most {
		return strings.Join(prefixes, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(prefixes[:most], " "), len(prefixes)-most)
}

// summary is a plan in one line.
func summary(p *swanherdv1.ChangePlan) string {
	return fmt.Sprintf("tunnels: %d added, %d removed, %d interrupted, %d rekeyed, %d updated; edges: %d touched; sites: %d reach less, %d reach more",
		p.GetTunnelsAdded(), p.GetTunnelsRemoved(), p.GetTunnelsInterrupted(), p.GetTunnelsRekeyed(), p.GetTunnelsUpdated(),
		p.GetEdgesTouched(), p.GetSitesLosing(), p.GetSitesGaining())
}

// printDifference shows one resource before and after a change.
func (s *session) printDifference(ctx context.Context, c *client, m *Manifest, change *swanherdv1.ResourceChange) error {
	name := change.GetName()
	var before, after []byte
	if a := change.GetAction(); a == swanherdv1.ResourceChange_ACTION_UPDATED || a == swanherdv1.ResourceChange_ACTION_DELETED {
		k, err := kindOf(name)
		if err != nil {
			return err
		}
		stored, err := k.get(ctx, c, name)
		if err != nil {
			return err
		}
		if before, err = plain(stored); err != nil {
			return err
		}
	}
	if wanted := m.resource(name); wanted != nil && change.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED {
		var err error
		if after, err = plain(wanted); err != nil {
			return err
		}
	}
	_, err := s.Out.Write(diff.Diff("stored/"+name, before, "file/"+name, after))
	return err
}

// plain is a resource as YAML, without what the server sets.
func plain(m proto.Message) ([]byte, error) {
	own := proto.Clone(m)
	r := own.ProtoReflect()
	for _, name := range []protoreflect.Name{"uid", "etag", "create_time", "update_time"} {
		if f := r.Descriptor().Fields().ByName(name); f != nil {
			r.Clear(f)
		}
	}
	b, err := protoyaml.Marshal(own)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Descriptor().Name(), err)
	}
	return b, nil
}

// resource is the one of that name in the files, nil when there is none.
func (m *Manifest) resource(name string) proto.Message {
	for _, r := range items(m.Manifest) {
		if named, ok := r.(interface{ GetName() string }); ok && named.GetName() == name {
			return r
		}
	}
	return nil
}

// kindOf is the kind of the resource that a full name names.
func kindOf(name string) (kind, error) {
	segments := strings.Split(name, "/")
	for _, k := range kinds() {
		if k.root && len(segments) == 2 && k.segment == segments[0] || len(segments) == 4 && k.segment == segments[2] {
			return k, nil
		}
	}
	return kind{}, usagef("%q names no resource", name)
}
