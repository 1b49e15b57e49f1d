package session

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What an edge says of a failure is bounded in every field.
func TestClipError(t *testing.T) {
	long := strings.Repeat("x", 5000)
	list := slices.Repeat([]string{long}, 100)
	e := &swanherdv1.TunnelError{
		Code: long, Message: long, Exchange: long, Payload: long, Notify: long, Child: long, Remedy: long,
		Ours: slices.Clone(list), Theirs: slices.Clone(list),
	}
	clipError(e)
	if n := proto.Size(e); n > 5*(maxWord+8)+2*(maxText+8)+2*maxOffers*(maxText+8) {
		t.Errorf("an error of %d octets is left", n)
	}
	kept := &swanherdv1.TunnelError{Code: "X", Message: "y", Ours: []string{"a", "b"}}
	before := proto.Clone(kept)
	if clipError(kept); !proto.Equal(kept, before) {
		t.Errorf("%v became %v", before, kept)
	}
}
