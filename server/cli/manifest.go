package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Manifest is what a set of files wants, and where each part stands in them.
type Manifest struct {
	*swanherdv1.Manifest
	places places
}

// place is a position in a file.
type place struct {
	file string
	line int
}

// places maps field paths of the manifest, `sites[2].prefixes[0]`, to where
// they stand.
type places map[string]place

// LoadManifest reads YAML or JSON files, the files of directories (*.yaml,
// *.yml, *.json), and standard input for "-". Unknown fields, duplicate names
// and values that the protos' rules forbid are errors that name file and line.
func LoadManifest(paths []string, in io.Reader) (*Manifest, error) {
	m := &Manifest{Manifest: &swanherdv1.Manifest{}, places: places{}}
	var read []string
	for _, path := range paths {
		if path == "-" {
			b, err := io.ReadAll(in)
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			if err := m.add("standard input", b); err != nil {
				return nil, err
			}
			read = append(read, "standard input")
			continue
		}
		files, err := manifestFiles(path)
		if err != nil {
			return nil, err
		}
		read = append(read, files...)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return nil, usagef("read manifest: %w", err)
			}
			if err := m.add(f, b); err != nil {
				return nil, err
			}
		}
	}
	if proto.Size(m.Manifest) == 0 {
		return nil, usagef("%s: no network, profile, segment, site, mesh, gateway or assertion in it", strings.Join(read, ", "))
	}
	return m, m.checkDuplicates()
}

func manifestFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("read manifest: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)) {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		return nil, usagef("read manifest: %w", err)
	}
	if len(files) == 0 {
		return nil, usagef("%s has no .yaml, .yml or .json file", path)
	}
	return files, nil
}

// add merges the documents of one file.
func (m *Manifest) add(file string, b []byte) error {
	validator, err := protovalidate.New()
	if err != nil {
		return fmt.Errorf("make validator: %w", err)
	}
	for _, doc := range splitDocuments(b) {
		var part swanherdv1.Manifest
		err := protoyaml.UnmarshalOptions{Path: file, Validator: rules{validator}}.Unmarshal(doc, &part)
		if err != nil {
			return decodeError(file, err)
		}
		if err := m.record(file, doc); err != nil {
			return err
		}
		proto.Merge(m.Manifest, &part)
	}
	return nil
}

// decodeError is what the decoder says, with the file where it names none.
func decodeError(file string, err error) error {
	text := strings.TrimSpace(err.Error())
	if !strings.HasPrefix(text, file) {
		text = file + ": " + text
	}
	return usageError{errors.New(text)}
}

// rules checks a message against the rules in the protos.
type rules struct{ protovalidate.Validator }

func (r rules) Validate(m proto.Message) error { return r.Validator.Validate(m) }

// splitDocuments cuts a YAML stream at its document separators. Each document
// keeps its line numbers: what stands before it is replaced by empty lines.
func splitDocuments(b []byte) [][]byte {
	var docs [][]byte
	var doc bytes.Buffer
	blank, lines := true, 0
	finish := func() {
		if !blank {
			docs = append(docs, bytes.Clone(doc.Bytes()))
		}
		doc.Reset()
		doc.WriteString(strings.Repeat("\n", lines))
		blank = true
	}
	for line := range bytes.Lines(b) {
		lines++
		if bytes.Equal(bytes.TrimRight(line, " \t\r\n"), []byte("---")) {
			finish()
			continue
		}
		doc.Write(line)
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' {
			blank = false
		}
	}
	finish()
	return docs
}

// record notes where each part of a document stands. Lists continue those of
// the documents before, as proto.Merge appends them.
func (m *Manifest) record(file string, doc []byte) error {
	var root yaml.Node
	if err := yaml.Unmarshal(doc, &root); err != nil {
		return usagef("%s: %w", file, err)
	}
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return nil
	}
	lengths := map[string]int{
		"networks": len(m.Networks), "profiles": len(m.Profiles), "segments": len(m.Segments), "sites": len(m.Sites), "meshes": len(m.Meshes),
		"gateways": len(m.Gateways), "assertions": len(m.Assertions),
	}
	if err := onceEach(file, "", root.Content[0]); err != nil {
		return err
	}
	top := root.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		key := top[i].Value
		for j, item := range top[i+1].Content {
			if err := m.places.walk(file, fmt.Sprintf("%s[%d]", key, lengths[key]+j), item); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p places) walk(file, path string, n *yaml.Node) error {
	p[path] = place{file, n.Line}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if err := p.walk(file, path+"["+strconv.Itoa(i)+"]", item); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		if err := onceEach(file, path+".", n); err != nil {
			return err
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := p.walk(file, path+"."+snake(n.Content[i].Value), n.Content[i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// onceEach refuses a mapping that has a key twice, in whatever spelling; of two
// values the decoder would take the last without a word.
func onceEach(file, prefix string, mapping *yaml.Node) error {
	lines := map[string]int{}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key := mapping.Content[i]
		name := snake(key.Value)
		if first, twice := lines[name]; twice {
			return usagef("%s:%d: %s%s is given twice, first in line %d; remove one of the two", file, key.Line, prefix, name, first)
		}
		lines[name] = key.Line
	}
	return nil
}

// snake turns the JSON name of a field, fullMesh, into its proto name.
func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// find returns where path stands, or the nearest thing around it.
func (p places) find(path string) (place, bool) {
	for path != "" {
		if at, ok := p[path]; ok {
			return at, true
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return place{}, false
}

func (m *Manifest) checkDuplicates() error {
	seen := map[string]string{}
	check := func(kind string, i int, name string) error {
		path := fmt.Sprintf("%s[%d]", kind, i)
		if first, ok := seen[name]; ok {
			return usagef("%s: %s is defined twice, first at %s", m.where(path), name, m.where(first))
		}
		seen[name] = path
		return nil
	}
	var errs []error
	for i, r := range m.Networks {
		errs = append(errs, check("networks", i, r.GetName()))
	}
	for i, r := range m.Profiles {
		errs = append(errs, check("profiles", i, r.GetName()))
	}
	for i, r := range m.Segments {
		errs = append(errs, check("segments", i, r.GetName()))
	}
	for i, r := range m.Sites {
		errs = append(errs, check("sites", i, r.GetName()))
	}
	for i, r := range m.Meshes {
		errs = append(errs, check("meshes", i, r.GetName()))
	}
	for i, r := range m.Gateways {
		errs = append(errs, check("gateways", i, r.GetName()))
	}
	for i, r := range m.Assertions {
		errs = append(errs, check("assertions", i, r.GetName()))
	}
	return errors.Join(errs...)
}

// where renders a field path as file:line where that is known.
func (m *Manifest) where(path string) string {
	if at, ok := m.places.find(path); ok {
		return fmt.Sprintf("%s:%d: %s", at.file, at.line, path)
	}
	return path
}

// Locate adds files and lines to the field violations of a server's refusal.
func (m *Manifest) Locate(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			v.Field = m.where(strings.TrimPrefix(strings.TrimPrefix(v.GetField(), "change_set."), "manifest."))
		}
		located, derr := status.New(st.Code(), st.Message()).WithDetails(bad)
		if derr != nil {
			return err
		}
		return located.Err()
	}
	return err
}
