package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Whatever kind the controller tells of is known here, and printed as it comes and goes.
func TestEveryWatchedKindIsPrinted(t *testing.T) {
	kinds := followedKinds()
	fields := (&swanherdv1.WatchResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("resource").Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		k, ok := kinds[collectionOf(f.Message())]
		if !ok {
			t.Errorf("swanherd knows no %s", collectionOf(f.Message()))
			continue
		}
		if found, err := findFollowed([]string{k.plural}); err != nil || len(found) != 1 || found[0].segment != k.segment {
			t.Errorf("swanherd watch %s: %v", k.plural, err)
		}
		for _, what := range []swanherdv1.WatchResponse_Kind{swanherdv1.WatchResponse_KIND_UPSERTED, swanherdv1.WatchResponse_KIND_REMOVED} {
			m := &swanherdv1.WatchResponse{Kind: what}
			r := m.ProtoReflect().NewField(f).Message()
			r.Set(f.Message().Fields().ByName("name"), protoreflect.ValueOfString("networks/demo/x/thing"))
			m.ProtoReflect().Set(f, protoreflect.ValueOfMessage(r))
			var out bytes.Buffer
			s := &session{IO: IO{Out: &out, Err: &out}, output: "table"}
			if err := s.printFollowed(kinds, m, true); err != nil {
				t.Error(err)
			}
			want := strings.TrimPrefix(what.String(), "KIND_")
			if line := out.String(); !strings.Contains(line, want) || !strings.Contains(line, k.singular) || !strings.HasSuffix(line, "\n") ||
				what == swanherdv1.WatchResponse_KIND_REMOVED && !strings.Contains(line, "  networks/demo/x/thing\n") {
				t.Errorf("%s: %q", k.plural, line)
			}
			if cells := k.row(r.Interface(), time.Now()); len(cells) != len(k.header) {
				t.Errorf("%s has %d cells below %v", k.plural, len(cells), k.header)
			}
		}
	}
}
