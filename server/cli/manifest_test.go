package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const fleet = `# a fleet
networks:
  - name: networks/demo
---
sites:
  - name: networks/demo/sites/berlin
    prefixes: [10.1.0.0/24]
  - name: networks/demo/sites/oslo
    prefixes:
      - 10.2.0.0/24
      - 2001:db8:2::/48
---
meshes:
  - name: networks/demo/meshes/all
    profile: networks/demo/profiles/default
    fullMesh:
      sites: {all: true}
    paths: {pairing: PAIRING_ALL, maxPaths: 3}
`

func load(t *testing.T, text string) (*Manifest, error) {
	t.Helper()
	return LoadManifest([]string{"-"}, strings.NewReader(text))
}

func TestLoadManifestMergesDocuments(t *testing.T) {
	m, err := load(t, fleet)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Networks) != 1 || len(m.Sites) != 2 || len(m.Meshes) != 1 {
		t.Fatalf("got %d networks, %d sites, %d meshes; want 1, 2, 1", len(m.Networks), len(m.Sites), len(m.Meshes))
	}
	if !m.Meshes[0].GetFullMesh().GetSites().GetAll() {
		t.Error("the mesh lost its selector")
	}
	if p := m.Meshes[0].GetPaths(); p.GetPairing() != swanherdv1.MeshPaths_PAIRING_ALL || p.GetMaxPaths() != 3 {
		t.Errorf("the mesh has the paths %v", p)
	}
}

// A refusal by the server names fields of the manifest; people want the line.
func TestLocateAddsFileAndLine(t *testing.T) {
	m, err := load(t, fleet)
	if err != nil {
		t.Fatal(err)
	}
	st, err := status.New(codes.InvalidArgument, "manifest is invalid").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "sites[1].prefixes[1]", Description: "overlaps"},
			{Field: "manifest.meshes[0].full_mesh.sites", Description: "selects no site"},
			{Field: "meshes[0].hub_and_spoke", Description: "stands nowhere"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := explain(m.Locate(st.Err()))
	for _, want := range []string{
		"standard input:11: sites[1].prefixes[1]: overlaps",
		"standard input:17: meshes[0].full_mesh.sites: selects no site",
		"standard input:14: meshes[0].hub_and_spoke: stands nowhere",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestLoadManifestRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown field":     {"networks:\n  - name: networks/demo\n    colour: red\n", `standard input:3:5 unknown field "colour"`},
		"unknown kind":      {"tunnels: []\n", "unknown field"},
		"bad name":          {"networks:\n  - name: demo\n", "standard input:2:"},
		"bad prefix":        {"sites:\n  - name: networks/d/sites/a\n    prefixes: [10.0.0/8]\n", "standard input:3:"},
		"host bits":         {"sites:\n  - name: networks/d/sites/a\n    prefixes: [10.0.0.1/8]\n", "prefix"},
		"no topology":       {"meshes:\n  - name: networks/d/meshes/a\n    profile: networks/d/profiles/p\n", "topology"},
		"duplicate":         {"networks:\n  - name: networks/a\n---\nnetworks:\n  - name: networks/a\n", "standard input:5: networks[1]: networks/a is defined twice, first at standard input:2: networks[0]"},
		"field twice":       {"sites:\n  - name: networks/d/sites/a\n    name: networks/d/sites/b\n", "standard input:3: sites[0].name is given twice, first in line 2"},
		"both spellings":    {"sites:\n  - name: networks/d/sites/a\n    displayName: A\n    display_name: B\n", "standard input:4: sites[0].display_name is given twice, first in line 3"},
		"kind twice":        {"networks: []\nsites: []\nnetworks: []\n", "standard input:3: networks is given twice, first in line 1"},
		"nothing":           {"# no fleet\n---\n", "standard input: no network, profile, segment, site, mesh, gateway or assertion"},
		"not yaml":          {"networks: [\n", "standard input:"},
		"window":            {"profiles:\n  - name: networks/d/profiles/p\n    replayWindow: 63\n", "64 to 8192"},
		"unknown algorithm": {"profiles:\n  - name: networks/d/profiles/p\n    ikeProposals: 7\n", "standard input:3:"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.text)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is\n%v\nwant in it: %s", err, c.want)
			}
			if exitCode(err) != exitUsage {
				t.Errorf("exit code is %d, want %d", exitCode(err), exitUsage)
			}
		})
	}
}

func TestLoadManifestReadsDirectories(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "networks: [{name: networks/a}]\n", "b.json": `{"networks": [{"name": "networks/b"}]}`, "c.txt": "not for us",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := LoadManifest([]string{dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Networks) != 2 {
		t.Errorf("got %d networks, want 2", len(m.Networks))
	}
	if _, err := LoadManifest([]string{t.TempDir()}, nil); err == nil {
		t.Error("an empty directory was accepted")
	}
}
