package store

import (
	"fmt"
	"strings"
)

// root is the prefix of every key.
const root = "/swanherd/v1/"

// A layout maps resource names to keys: the literal segments of a name give
// way to the collection's directory.
type layout struct {
	dir string
	// form is the name with "*" for a segment that varies, and "**" for the
	// rest of the name.
	form []string
}

func newLayout(dir, form string) layout { return layout{dir, strings.Split(form, "/")} }

// prefix is the prefix of the collection's keys.
func (l layout) prefix() string { return root + l.dir + "/" }

// networkPrefix is the prefix of the keys below one network.
func (l layout) networkPrefix(network string) string { return l.prefix() + network + "/" }

// key returns the key of a resource name.
func (l layout) key(name string) (string, error) {
	segments := strings.Split(name, "/")
	var varying []string
	for i, f := range l.form {
		if f == "**" && i < len(segments) {
			varying = append(varying, segments[i:]...)
			segments = segments[:i+1]
			break
		}
		if i >= len(segments) || f != "*" && f != segments[i] {
			return "", l.nameError(name)
		}
		if f == "*" {
			varying = append(varying, segments[i])
		}
	}
	if len(segments) != len(l.form) {
		return "", l.nameError(name)
	}
	for _, v := range varying {
		if v == "" {
			return "", l.nameError(name)
		}
	}
	return l.prefix() + strings.Join(varying, "/"), nil
}

// name returns the resource name of a key of the collection.
func (l layout) name(key string) (string, error) {
	rest, ok := strings.CutPrefix(key, l.prefix())
	if !ok {
		return "", fmt.Errorf("key %q is not below %q", key, l.prefix())
	}
	varying := strings.Split(rest, "/")
	var segments []string
	for _, f := range l.form {
		switch {
		case f == "**":
			segments = append(segments, varying...)
			varying = nil
		case f != "*":
			segments = append(segments, f)
		case len(varying) == 0:
			return "", fmt.Errorf("key %q has fewer segments than %q", key, strings.Join(l.form, "/"))
		default:
			segments = append(segments, varying[0])
			varying = varying[1:]
		}
	}
	if len(varying) != 0 {
		return "", fmt.Errorf("key %q has more segments than %q", key, strings.Join(l.form, "/"))
	}
	return strings.Join(segments, "/"), nil
}

func (l layout) nameError(name string) error {
	return fmt.Errorf("name %q is not of the form %s", name, strings.Join(l.form, "/"))
}
