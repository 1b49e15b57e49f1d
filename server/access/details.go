package access

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Reasons of errors, as in google.rpc.ErrorInfo of the domain swanherd.dev
// (AIP-193). Programs tell errors of one code apart by them.
const (
	ReasonETagMismatch = "ETAG_MISMATCH"
	ReasonInUse        = "IN_USE"
	ReasonUnavailable  = "STORE_UNAVAILABLE"
	ReasonExpired      = "REVISION_EXPIRED"
	// Labels limit the caller's role, and what is asked for does not carry them.
	ReasonOutOfScope = "OUT_OF_SCOPE"
	// The principal calls more often than it may.
	ReasonRateLimited = "RATE_LIMITED"
	// The network demands approval of its changes.
	ReasonApprovalRequired = "APPROVAL_REQUIRED"
	// The identity provider does not answer.
	ReasonProviderUnavailable = "IDENTITY_PROVIDER_UNAVAILABLE"
)

const errorDomain = "swanherd.dev"

// retryDelay is after which time it is worth to try again what failed for reasons
// that pass.
const retryDelay = time.Second

// withDetails is the status with as many of the details as can be encoded.
func withDetails(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	st := status.New(code, message)
	if with, err := st.WithDetails(details...); err == nil {
		st = with
	}
	return st.Err()
}

func errorInfo(reason string, metadata map[string]string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: reason, Domain: errorDomain, Metadata: metadata}
}

// WrongETag returns ABORTED: somebody else wrote the resource since the caller read
// it (AIP-154).
func WrongETag(name, have, given string) error {
	return withDetails(codes.Aborted,
		fmt.Sprintf("%s was changed in between: its etag is %q, not %q; read it again and retry", name, have, given),
		errorInfo(ReasonETagMismatch, map[string]string{"resource": name, "etag": have}))
}

// Obstacle is something in the state of the fleet that a change cannot go with.
type Obstacle struct {
	// Subject is the name of the resource that is in the way.
	Subject     string
	Description string
}

// InUse returns FAILED_PRECONDITION with every resource that is in the way of the
// change as a google.rpc.PreconditionFailure detail.
func InUse(message string, obstacles []Obstacle) error {
	failure := &errdetails.PreconditionFailure{}
	for _, o := range obstacles {
		failure.Violations = append(failure.Violations, &errdetails.PreconditionFailure_Violation{
			Type: ReasonInUse, Subject: o.Subject, Description: o.Description,
		})
	}
	return withDetails(codes.FailedPrecondition, message, failure, errorInfo(ReasonInUse, nil))
}

// Expired returns OUT_OF_RANGE: what was asked for is older than what the store
// keeps. remedy says what to do instead.
func Expired(what, remedy string) error {
	return withDetails(codes.OutOfRange, what+" is older than what the store keeps; "+remedy, errorInfo(ReasonExpired, nil))
}

// unavailable returns UNAVAILABLE, and when to try again.
func unavailable(message string) error {
	return withDetails(codes.Unavailable, message, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryDelay)}, errorInfo(ReasonUnavailable, nil))
}
