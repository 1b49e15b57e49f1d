package model

import (
	"fmt"
	"strconv"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// MaxHubPriority is the highest priority that the label of a hub may say.
const MaxHubPriority = 9999

// priorities checks what the labels of hubs say of who goes first.
func (v *validator) priorities(m *swanherdv1.Mesh, h *swanherdv1.HubAndSpoke, hubs []string) {
	key := h.GetPriorityLabel()
	if key == "" {
		return
	}
	for _, name := range hubs {
		text, ok := v.t.Sites.Value(name).GetLabels()[key]
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(text, 10, 32); err != nil || n > MaxHubPriority {
			v.add(m.GetName(), "hub_and_spoke.priority_label", fmt.Sprintf("is %q at %s, which is no number from 0 to %d", text, v.called(name), MaxHubPriority), "give each hub such a label, or none")
		}
	}
}
