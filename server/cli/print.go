package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// table writes aligned columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, header ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)}
	t.row(header...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if cells[i] = safe(c); c == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

// printMessage writes m as JSON or YAML; several become a stream of documents.
func (s *session) printMessage(m proto.Message) error {
	var b []byte
	var err error
	if s.output == "yaml" {
		b, err = protoyaml.Marshal(m)
		if s.documents > 0 {
			b = append([]byte("---\n"), b...)
		}
		s.documents++
	} else {
		b, err = protojson.MarshalOptions{Multiline: true}.Marshal(m)
		b = append(b, '\n')
	}
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	_, err = s.Out.Write(b)
	return err
}

// printDeleted tells that a resource is gone, or in a dry run that it would be.
func (s *session) printDeleted(name string, dryRun bool) error {
	if s.output == "table" {
		done := "deleted"
		if dryRun {
			done = "would be deleted"
		}
		_, err := fmt.Fprintf(s.Out, "%s %s\n", name, done)
		return err
	}
	return s.printMessage(&swanherdv1.ResourceChange{Name: name, Action: swanherdv1.ResourceChange_ACTION_DELETED})
}

// safe is text for a terminal: what edges and other people wrote must not move
// its cursor or forge lines.
func safe(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// base is the last segment of a resource name.
func base(name string) string {
	return name[strings.LastIndex(name, "/")+1:]
}

// enum is a generated enumeration.
type enum interface {
	protoreflect.Enum
	fmt.Stringer
}

// enumWord turns TUNNEL_STATUS_UP into UP and ROLE_ADMIN into ADMIN: the value
// without the enumeration's name.
func enumWord(e enum) string {
	prefix := screamingSnake(string(e.Descriptor().Name())) + "_"
	return strings.TrimPrefix(e.String(), prefix)
}

func screamingSnake(camel string) string {
	var b strings.Builder
	for i, r := range camel {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// age is the time since t in its two largest units, as people read it.
func age(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	d := now.Sub(t.AsTime()).Round(time.Second)
	switch {
	case d < 0:
		return "in " + short(-d)
	default:
		return short(d)
	}
}

func short(d time.Duration) string {
	day := 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < day:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d/day), int(d%day/time.Hour))
	}
}

func orAll(networks []string) string {
	if len(networks) == 0 {
		return "all"
	}
	return strings.Join(networks, ",")
}
