package edge

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/swanherd/swanherd/edge/reconcile"
)

// pathStep is one step of a field path: a field, or an index.
var pathStep = regexp.MustCompile(`[^.\[\]]+|\[\d+\]`)

// locateErrors renders errors about an intent file as compilers do: file, line
// and column of the field, or of the nearest thing around it that is there.
func locateErrors(file string, content []byte, errs reconcile.Errors) error {
	var doc yaml.Node
	if yaml.Unmarshal(content, &doc) != nil || len(doc.Content) == 0 {
		return errs // it was parsed before, so this does not happen
	}
	var lines []string
	for _, e := range errs {
		n := locateResource(doc.Content[0], e.GetResource())
		for _, step := range pathStep.FindAllString(e.GetFieldPath(), -1) {
			next := descend(n, step)
			if next == nil {
				break
			}
			n = next
		}
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s", file, n.Line, n.Column, reconcile.Errors{e}.Error()))
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}

// locateResource finds the settings, or the tunnel of that name.
func locateResource(root *yaml.Node, resource string) *yaml.Node {
	tunnels := descend(root, "tunnels")
	if tunnels != nil {
		for _, t := range tunnels.Content {
			if name := descend(t, "name"); name != nil && name.Value == resource {
				return t
			}
		}
	}
	if n := descend(root, resource); n != nil {
		return n
	}
	return root
}

// descend takes one step: a field is written as in the proto or in lower camel
// case.
func descend(n *yaml.Node, step string) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if index, ok := strings.CutPrefix(step, "["); ok && n.Kind == yaml.SequenceNode {
		if i, err := strconv.Atoi(strings.TrimSuffix(index, "]")); err == nil && i < len(n.Content) {
			return n.Content[i]
		}
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if plain(n.Content[i].Value) == plain(step) {
			return n.Content[i+1]
		}
	}
	return nil
}

func plain(field string) string { return strings.ToLower(strings.ReplaceAll(field, "_", "")) }
