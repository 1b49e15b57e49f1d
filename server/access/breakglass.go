package access

import (
	"context"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// BreakGlassHeader carries why an administrator changes a network without the approval
// that it demands.
const BreakGlassHeader = "swanherd-break-glass"

// maxBreakGlass bounds that text, in octets.
const maxBreakGlass = 256

// BreakGlass is why the caller wants to pass without approval; empty: it does not.
func BreakGlass(ctx context.Context) string {
	for _, text := range metadata.ValueFromIncomingContext(ctx, BreakGlassHeader) {
		if text = strings.TrimSpace(text); text != "" {
			return PlainText(text, maxBreakGlass)
		}
	}
	return ""
}

// MayBreakGlass refuses who is no administrator of the whole network.
func (p Principal) MayBreakGlass(network string) error {
	if !p.With(admin).SeesAll(network) {
		return status.Errorf(codes.PermissionDenied, "to change %s without approval needs %s there, %s has %s", network, admin, p.Actor, p.Role())
	}
	return nil
}

// NeedsApproval is FAILED_PRECONDITION: the network demands approval of its changes.
// Before the change set that is to be approved, there may be something else to do.
func NeedsApproval(network, before string) error {
	remedy := before + "make a change set (swanherd changeset create), have somebody else approve it, and roll it out"
	return withDetails(codes.FailedPrecondition,
		network+" demands approval of changes: "+remedy+"; an administrator may pass in an emergency (--break-glass REASON)",
		&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{
			Type: ReasonApprovalRequired, Subject: network, Description: remedy,
		}}}, errorInfo(ReasonApprovalRequired, map[string]string{"network": network}))
}
