package edge

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/edge/session"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxIntentFile bounds an intent file; ten thousand tunnels take less.
const maxIntentFile = 64 << 20

// validator gives protoyaml the rules in the protos.
type validator struct{}

func (validator) Validate(m proto.Message) error { return protovalidate.Validate(m) }

// ReadIntent reads an intent file, YAML or JSON, and returns its content too.
// Unknown fields, and fields that break the rules in the protos, are errors that
// name file, line and column. Paths in it are relative to its own directory.
func ReadIntent(file string) (intent *swanherdv1.EdgeIntent, content []byte, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read intent: %w", err)
	}
	if info.Size() > maxIntentFile {
		return nil, nil, fmt.Errorf("read intent: %s is larger than %d octets", file, maxIntentFile)
	}
	content, err = os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read intent: %w", err)
	}
	intent = &swanherdv1.EdgeIntent{}
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, nil, fmt.Errorf("read intent: %s is empty; an intent without tunnels is written as: tunnels: []", file)
	}
	if err := (protoyaml.UnmarshalOptions{Path: file, Validator: validator{}}).Unmarshal(content, intent); err != nil {
		if !strings.Contains(err.Error(), file) { // what is not YAML at all
			err = fmt.Errorf("%s: %w", file, err)
		}
		return nil, nil, fmt.Errorf("read intent:\n%w", err)
	}
	resolvePaths(intent, filepath.Dir(file))
	return intent, content, nil
}

// resolvePaths makes the paths in an intent relative to dir.
func resolvePaths(intent *swanherdv1.EdgeIntent, dir string) {
	resolve := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	if files := intent.GetSettings().GetIdentityFiles(); files != nil {
		resolve(&files.Certificate)
		resolve(&files.Key)
	}
	for _, t := range intent.GetTunnels() {
		if psk := t.GetAuthentication().GetPsk(); psk != nil {
			resolve(&psk.File)
		}
	}
}

// resources takes an intent apart.
func resources(intent *swanherdv1.EdgeIntent) []*swanherdv1.IntentResource {
	var out []*swanherdv1.IntentResource
	if s := intent.GetSettings(); s != nil {
		out = append(out, digest.Resource(s))
	}
	if t := intent.GetTrust(); t != nil {
		out = append(out, digest.Resource(t))
	}
	for _, t := range intent.GetTunnels() {
		out = append(out, digest.Resource(t))
	}
	return out
}

// runner runs intents and remembers the last one. It implements session.Intent.
type runner struct {
	reconciler *reconcile.Reconciler
	dir        *state.Dir // nil: intents come from a file and are not stored
	logger     *slog.Logger
	changed    chan struct{} // gets one when an update was taken back, or awaits other tunnels
	carriers   carriers      // nil: no tunnel is awaited
	// trusted is told whose certificates the running intent wants; nil: nobody is.
	trusted func(*swanherdv1.TrustBundle)

	bring sync.Mutex // held while the edge is brought to an intent

	mu        sync.Mutex
	running   *state.Intent
	confirmed *state.Intent        // what is stored: running, or the one before while trial
	trial     *trial               // of running; nil: it is confirmed
	tried     *swanherdv1.Reverted // what was tried last and is not kept
}

func newRunner(r *reconcile.Reconciler, logger *slog.Logger) *runner {
	return &runner{reconciler: r, logger: logger, changed: make(chan struct{}, 1)}
}

// Running implements session.Intent.
func (r *runner) Running() *state.Intent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

// resume runs the intent that ran before the last stop.
func (r *runner) resume() error {
	i, err := r.dir.LoadIntent()
	var corrupt *state.CorruptError
	if errors.As(err, &corrupt) {
		r.logger.Error("begin without an intent", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	r.confirmed = i
	r.resumeTrial()
	if i == nil {
		return nil
	}
	err = r.reconciler.Adopt(i.EdgeIntent())
	var invalid reconcile.Errors
	if errors.As(err, &invalid) {
		// It was good once: this agent is another version, or a file is gone.
		// The controller hears of no intent and sends the whole of it.
		r.logger.Error("the stored intent cannot be run; waiting for the controller", "error", err)
		return nil
	}
	if err != nil {
		r.logger.Warn("the host is not ready for the stored intent; trying again", "error", err)
	}
	r.logger.Info("running the stored intent", "revision", i.SourceRevision, "tunnels", len(i.EdgeIntent().GetTunnels()))
	r.setRunning(i)
	return nil
}

func (r *runner) setRunning(i *state.Intent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = i
	r.tellTrust()
}

// tellTrust says whose certificates the running intent wants. The caller holds mu.
func (r *runner) tellTrust() {
	switch {
	case r.trusted == nil:
	case r.running == nil:
		r.trusted(nil)
	default:
		r.trusted(r.running.EdgeIntent().GetTrust())
	}
}

// rejection says to the controller what the reconciler said.
func rejection(err error) error {
	var invalid reconcile.Errors
	var failed *reconcile.ApplyError
	switch {
	case errors.As(err, &invalid):
		return &session.RejectedError{Code: swanherdv1.Nack_CODE_INVALID, Errors: invalid}
	case errors.As(err, &failed):
		return &session.RejectedError{Code: swanherdv1.Nack_CODE_APPLY_FAILED, Errors: failed.Errors}
	}
	return err
}
