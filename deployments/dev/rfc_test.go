package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRFCTableNamesWhatExists holds that every test and story that ipsec/RFC.md
// gives as a proof is there.
func TestRFCTableNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile("../../ipsec/RFC.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, stories := map[string]bool{}, map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "node_modules":
			return filepath.SkipDir
		case strings.HasSuffix(path, "_test.go"):
			source, err := os.ReadFile(path)
			for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
				tests[m[1]] = true
			}
			return err
		case strings.HasSuffix(path, ".txt"):
			if story, ok := strings.CutPrefix(filepath.ToSlash(path), "../../ipsec/ike/testdata/"); ok {
				stories[story] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`).FindAllString(string(text), -1) {
		if !tests[name] {
			t.Errorf("ipsec/RFC.md names %s, which is no test", name)
		}
	}
	for _, name := range regexp.MustCompile(`[\w/]+\.txt\b`).FindAllString(string(text), -1) {
		if !stories[name] {
			t.Errorf("ipsec/RFC.md names %s, which is no file under ike/testdata", name)
		}
	}
}
