package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/store"
)

// Violation is one thing that is wrong with a request.
type Violation struct {
	// Field is a path such as `manifest.sites[2].prefixes[0]`.
	Field   string
	Message string
}

// maxInMessage is how many violations the message spells out; the details
// hold maxViolations of them.
const (
	maxInMessage  = 3
	maxViolations = 1000
)

// Invalid returns INVALID_ARGUMENT about one field.
func Invalid(field, message string) error {
	return InvalidAll([]Violation{{field, message}})
}

// InvalidAll returns INVALID_ARGUMENT with every violation as a
// google.rpc.BadRequest detail (AIP-193).
func InvalidAll(violations []Violation) error {
	detail := &errdetails.BadRequest{}
	var parts []string
	for i, v := range violations[:min(len(violations), maxViolations)] {
		detail.FieldViolations = append(detail.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: v.Field, Description: v.Message,
		})
		if i < maxInMessage {
			parts = append(parts, v.Field+": "+v.Message)
		}
	}
	if more := len(violations) - maxInMessage; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more, see the details", more))
	}
	message := strings.Join(parts, "; ")
	st, err := status.New(codes.InvalidArgument, message).WithDetails(detail)
	if err != nil {
		return status.Error(codes.InvalidArgument, message)
	}
	return st.Err()
}

// StoreError turns an error of the store into a status; what is one already
// stays as it is.
func StoreError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, store.ErrExists):
		return status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, store.ErrConflict):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, store.ErrTooLarge):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrSuperseded):
		return unavailable(err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case isStatus(err):
		return err
	default:
		return unavailable(fmt.Sprintf("the store does not answer: %v", err))
	}
}

func isStatus(err error) bool {
	_, ok := status.FromError(err)
	return ok
}

// Audit returns an audit event: who did what to which resource.
func Audit(actor, resource, action, message string) *swanherdv1.Event {
	return &swanherdv1.Event{
		Time:     timestamppb.Now(),
		Kind:     swanherdv1.Event_KIND_AUDIT,
		Actor:    actor,
		Resource: resource,
		Action:   action,
		Message:  message,
	}
}

// auditLimiter bounds what rejected callers can make the store hold.
type auditLimiter struct {
	mu         sync.Mutex
	limiter    *rate.Limiter
	suppressed int
}

func newAuditLimiter() *auditLimiter {
	return &auditLimiter{limiter: rate.NewLimiter(rate.Every(time.Second), 30)}
}

// allow says whether to write one more event, and how many were left out since
// the last one that was.
func (a *auditLimiter) allow() (suppressed int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.limiter.Allow() {
		a.suppressed++
		return 0, false
	}
	suppressed, a.suppressed = a.suppressed, 0
	return suppressed, true
}
