package api

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Rollouts beyond those that are kept go with their change sets, but for one that another
// rollout is of, or the one that begins.
func TestEndedRolloutsAreForgotten(t *testing.T) {
	var ended []*swanherdv1.Rollout
	of := func(i int, changeSet string) {
		ended = append(ended, &swanherdv1.Rollout{
			Name: fmt.Sprintf("networks/demo/rollouts/r%d", i), ChangeSet: "networks/demo/changeSets/" + changeSet,
			CreateTime: timestamppb.New(time.Unix(int64(i), 0)),
		})
	}
	for i := range maxEndedRollouts {
		of(i, fmt.Sprint("c", i))
	}
	if rollouts, changeSets := forgotten(slices.Clone(ended), "networks/demo/changeSets/new"); len(rollouts)+len(changeSets) != 0 {
		t.Errorf("forgotten %v, %v", rollouts, changeSets)
	}
	of(maxEndedRollouts, "c2")
	of(maxEndedRollouts+1, "c9")
	of(-1, "c0")
	of(-2, "begins")
	slices.Reverse(ended)
	rollouts, changeSets := forgotten(ended, "networks/demo/changeSets/begins")
	if want := []string{"r-2", "r-1", "r0", "r1"}; !slices.Equal(last(rollouts), want) {
		t.Errorf("rollouts %v, want %v", last(rollouts), want)
	}
	if want := []string{"c0", "c1"}; !slices.Equal(last(changeSets), want) {
		t.Errorf("change sets %v, want %v", last(changeSets), want)
	}
}

func last(names []string) []string {
	var out []string
	for _, name := range names {
		out = append(out, lastSegment(name))
	}
	return out
}
