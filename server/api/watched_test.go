package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
)

// notWatched are the kinds that are listed and not watched, with the reason.
var notWatched = map[string]string{
	"preSharedKeys":    "secret",
	"enrollmentTokens": "secret",
	"apiTokens":        "secret",
	"users":            "made of sign-ins, bindings and tokens",
	"certificates":     "gone when their time is over, of which no row tells",
	"revocations":      "with how many edges know, of which other rows tell",
	"tunnels":          "live; WatchTunnels and WatchFleet",
	"events":           "never changed; ListEvents goes on where it was",
	"revisions":        "never changed; each comes with what it changed",
	"clusterMembers":   "not in the store",
}

func resourceOf(d protoreflect.MessageDescriptor) *annotations.ResourceDescriptor {
	r, _ := proto.GetExtension(d.Options(), annotations.E_Resource).(*annotations.ResourceDescriptor)
	return r
}

// Every kind that is listed is watched too, or it is said why not; and what the API says of
// that is what there is.
func TestEveryKindIsWatched(t *testing.T) {
	var kinds []string
	for _, k := range watchedKinds {
		kinds = append(kinds, k.collection())
		m := method(t, k.method())
		response := m.Output()
		if fields := response.Fields(); strings.HasPrefix(string(m.Name()), "List") {
			response = fields.ByNumber(1).Message()
		}
		if plural := resourceOf(response).GetPlural(); plural != k.collection() {
			t.Errorf("%s is guarded as %s, which is of %s", k.collection(), k.method(), plural)
		}
	}
	kindsField := (&swanherdv1.WatchRequest{}).ProtoReflect().Descriptor().Fields().ByName("kinds")
	rules := proto.GetExtension(kindsField.Options(), validate.E_Field).(*validate.FieldRules)
	if said := rules.GetRepeated().GetItems().GetString().GetIn(); !slices.Equal(said, kinds) {
		t.Errorf("WatchRequest.kinds takes %v, there are %v", said, kinds)
	}
	var shown []string
	fields := (&swanherdv1.WatchResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("resource").Fields()
	for i := range fields.Len() {
		shown = append(shown, resourceOf(fields.Get(i).Message()).GetPlural())
	}
	slices.Sort(shown)
	if have := slices.Sorted(slices.Values(kinds)); !slices.Equal(shown, have) {
		t.Errorf("WatchResponse holds %v, there are %v", shown, have)
	}
	eachMethod(func(m protoreflect.MethodDescriptor) {
		if !strings.HasPrefix(string(m.Name()), "List") {
			return
		}
		kind := m.Output().Fields().ByNumber(1).JSONName()
		if watched := slices.Contains(kinds, kind); watched == (notWatched[kind] != "") {
			t.Errorf("%s: %q is watched: %v, and notWatched says %q", m.FullName(), kind, watched, notWatched[kind])
		}
	})
}

func eachMethod(f func(protoreflect.MethodDescriptor)) {
	protoregistry.GlobalFiles.RangeFilesByPackage("swanherd.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				f(file.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
}

func method(t *testing.T, path string) (found protoreflect.MethodDescriptor) {
	t.Helper()
	eachMethod(func(m protoreflect.MethodDescriptor) {
		if path == fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()) {
			found = m
		}
	})
	if found == nil {
		t.Fatalf("there is no method %s", path)
	}
	return found
}

// Each kind is shown to those who may list it: to nobody without a grant, whatever it asks for.
func TestNobodyWatchesWhatItMayNotList(t *testing.T) {
	nobody := access.Principal{Actor: "token:nobody"}
	for _, k := range watchedKinds {
		req := &swanherdv1.WatchRequest{Parent: "networks/-", Kinds: []string{k.collection()}}
		if _, err := followedKinds(nobody, req); err == nil {
			t.Errorf("%s is shown to nobody in particular", k.collection())
		}
	}
	if kinds, err := followedKinds(nobody, &swanherdv1.WatchRequest{Parent: "networks/-"}); err != nil || len(kinds) > 0 {
		t.Errorf("of all it is shown %v, %v", kinds, err)
	}
}
