package dashboard

import (
	"io/fs"
	"path"
	"testing"
)

// Budgets of what a browser loads first, and of the whole build.
const (
	maxScriptGzip = 80 << 10
	maxBuild      = 700 << 10
)

func TestBudgets(t *testing.T) {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAssets(files)
	if err != nil {
		t.Fatal(err)
	}
	script, build := 0, 0
	for name, x := range a {
		build += len(x.plain)
		if path.Ext(name) == ".js" {
			script += len(x.gzip)
		}
	}
	if script == 0 || script > maxScriptGzip {
		t.Errorf("scripts are %d octets compressed, want 1 to %d", script, maxScriptGzip)
	}
	if build > maxBuild {
		t.Errorf("the build is %d octets, want at most %d", build, maxBuild)
	}
}
