package api

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestCountsOfSeveralNetworksAreAdded(t *testing.T) {
	one, sum := &swanherdv1.FleetCounts{}, &swanherdv1.FleetCounts{}
	fields := one.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		one.ProtoReflect().Set(fields.Get(i), protoreflect.ValueOfUint32(uint32(i+1)))
	}
	add(sum, one)
	add(sum, one)
	for i := range fields.Len() {
		if got := sum.ProtoReflect().Get(fields.Get(i)).Uint(); got != uint64(2*(i+1)) {
			t.Errorf("%s is %d, want %d", fields.Get(i).Name(), got, 2*(i+1))
		}
	}
}
