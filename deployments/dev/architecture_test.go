package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/swanherd/swanherd/"

// pkg is what `go list` says of a package, its paths relative to the module.
type pkg struct {
	ImportPath   string
	Name         string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Dir          string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles,Dir", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Which room may import which of ours. The reason is what a reader needs when
// the test fails.
var mayImport = []struct {
	room   string
	allow  []string
	reason string
}{
	{"proto", []string{"proto"}, "the protos are the contract; they depend on nobody"},
	{"ipsec", []string{"ipsec"}, "ipsec is a library that anyone can use without the controller"},
	{"edge", []string{"edge", "proto", "ipsec"}, "an edge knows the controller only by the protos"},
	{"server", []string{"server", "proto"}, "the controller knows edges only by the protos"},
	{"dashboard", []string{"dashboard", "proto"}, "the dashboard is a client of the public API"},
}

// composers are programs: they put rooms together and may see one more each.
var composers = map[string]string{
	"server/cmd/swanherd-server": "dashboard",
}

func TestDirectionOfImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range mayImport {
			if p.ImportPath != rule.room && !strings.HasPrefix(p.ImportPath, rule.room+"/") {
				continue
			}
			for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
				ours, ok := strings.CutPrefix(imported, module)
				if !ok {
					continue
				}
				room, _, _ := strings.Cut(ours, "/")
				if !slices.Contains(rule.allow, room) && composers[p.ImportPath] != room {
					t.Errorf("%s imports %s: %s", p.ImportPath, ours, rule.reason)
				}
			}
		}
	}
}

// Pure packages decide; they do not act. What they need to know of the world
// comes in as arguments.
var pure = []string{"ipsec/wire", "ipsec/suite", "ipsec/ident", "ipsec/ts", "ipsec/ike", "ipsec/esp", "server/model", "server/plan", "server/rollout", "server/alert", "server/attest", "proto/digest", "edge/nat"}

var impure = []string{"os", "os/exec", "net", "net/http", "log", "syscall", "golang.org/x/sys/unix", "google.golang.org/grpc"}

func TestPurePackagesDoNoIO(t *testing.T) {
	clock := regexp.MustCompile(`\btime\.(Now|Since|Until|Sleep|After|AfterFunc|NewTimer|NewTicker|Tick)\(`)
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.ImportPath) {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(impure, imported) {
				t.Errorf("%s imports %s, but it is to do no I/O", p.ImportPath, imported)
			}
		}
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if at := clock.Find(text); at != nil {
				t.Errorf("%s/%s calls %s...): time is an argument there", p.ImportPath, file, at)
			}
		}
	}
}

// The race detector leaves out what has nothing for it.
func TestSequentialPackagesStartNothing(t *testing.T) {
	concurrent := regexp.MustCompile(`(?m)^\s*go (func|\w+[.(])|\.Go\(|\bsync\.|\.Parallel\(|\bchan\b`)
	all := packages(t)
	for _, suffix := range sequential {
		i := slices.IndexFunc(all, func(p pkg) bool { return "/"+p.ImportPath == suffix })
		if i < 0 {
			t.Errorf("there is no package %s", suffix)
			continue
		}
		p := all[i]
		for _, file := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if at := concurrent.Find(text); at != nil {
				t.Errorf("%s/%s has %q: test it with the race detector, and take it out of the list in test.go", p.ImportPath, file, at)
			}
		}
	}
}

func TestOnlyTheLibraryKeepsToItsModules(t *testing.T) {
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.ImportPath, "ipsec/") {
			continue
		}
		for _, imported := range p.Imports {
			host, _, _ := strings.Cut(imported, "/")
			if strings.Contains(host, ".") && !strings.HasPrefix(imported, module+"ipsec") && !strings.HasPrefix(imported, "golang.org/x/") &&
				!(p.ImportPath == "ipsec/suite" && imported == "filippo.io/bigmod") &&
				!(p.ImportPath == "ipsec/dataplane/xfrm" && strings.HasPrefix(imported, "github.com/vishvananda/")) {
				t.Errorf("%s imports %s; the library has the standard library and golang.org/x only, and constant-time arithmetic for MODP groups", p.ImportPath, imported)
			}
		}
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 && !strings.HasPrefix(p.ImportPath, "proto/swanherd") {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// A document that names a path that is gone misleads.
func TestPathsInDocumentsExist(t *testing.T) {
	dir := root(t)
	path := regexp.MustCompile("`((?:proto|ipsec|edge|server|dashboard|deployments)/[A-Za-z0-9_./-]*)`")
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "BENCHMARKS.md"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range path.FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(dir, string(m[1]))); err != nil {
				t.Errorf("%s names %s, which does not exist", name, m[1])
			}
		}
	}
}

// Sizes that keep a file readable; generated code and tables aside.
func TestFilesStayReadable(t *testing.T) {
	const longest = 600
	for _, p := range packages(t) {
		for _, file := range p.GoFiles {
			if strings.HasSuffix(file, ".pb.go") || strings.HasSuffix(file, ".pb.gw.go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(text, []byte("\n")); n > longest {
				t.Errorf("%s/%s has %d lines; split it by concept", p.ImportPath, file, n)
			}
		}
	}
}
