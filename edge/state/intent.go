package state

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Intent is a set of intent resources and where it comes from. It is not
// changed after it was made.
type Intent struct {
	Epoch          string
	SourceRevision int64
	Resources      *digest.Set
}

// Digest is the digest of the resources (package digest).
func (i *Intent) Digest() []byte { return i.Resources.Digest() }

// Applied identifies the intent to the controller. It is nil for a nil Intent.
func (i *Intent) Applied() *swanherdv1.AppliedIntent {
	if i == nil {
		return nil
	}
	return &swanherdv1.AppliedIntent{Epoch: i.Epoch, SourceRevision: i.SourceRevision, SetDigest: i.Digest()}
}

// EdgeIntent returns the resources as one message, tunnels in the order of their
// names.
func (i *Intent) EdgeIntent() *swanherdv1.EdgeIntent {
	e := &swanherdv1.EdgeIntent{}
	for _, r := range i.Resources.Sorted() {
		switch body := r.GetBody().(type) {
		case *swanherdv1.IntentResource_Settings:
			e.Settings = body.Settings
		case *swanherdv1.IntentResource_Trust:
			e.Trust = body.Trust
		case *swanherdv1.IntentResource_Tunnel:
			e.Tunnels = append(e.Tunnels, body.Tunnel)
		}
	}
	return e
}

// intentHeader opens the file; a change of the layout or of the digest raises its number.
const intentHeader = "swanherd intent 2\n"

// CorruptError says that the intent's file was broken, and where it is now.
type CorruptError struct {
	Path, Aside string
	Reason      string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is broken (%s); it was moved to %s and the edge starts without an intent until the controller sends one", e.Path, e.Reason, e.Aside)
}

func (d *Dir) intentPath() string { return filepath.Join(d.path, "intent.binpb") }

// SaveIntent makes i the intent that LoadIntent returns after a restart.
func (d *Dir) SaveIntent(i *Intent) error {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&swanherdv1.IntentChunk{
		Epoch: i.Epoch, SourceRevision: i.SourceRevision,
		Full: true, ResultDigest: i.Digest(), ChunkCount: 1, Upserts: i.Resources.Sorted(),
	})
	if err != nil {
		return fmt.Errorf("encode intent: %w", err)
	}
	sum := sha256.Sum256(body)
	b := append([]byte(intentHeader), sum[:]...)
	return writeFile(d.intentPath(), append(b, body...))
}

// LoadIntent returns the intent last saved, nil if there is none. A broken file
// is moved aside and reported as a *CorruptError; the caller goes on without.
func (d *Dir) LoadIntent() (*Intent, error) {
	b, err := os.ReadFile(d.intentPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read intent: %w", err)
	}
	i, reason := decodeIntent(b)
	if reason == "" {
		return i, nil
	}
	aside, err := quarantine(d.intentPath())
	if err != nil {
		return nil, fmt.Errorf("%s is broken (%s): %w", d.intentPath(), reason, err)
	}
	return nil, &CorruptError{Path: d.intentPath(), Aside: aside, Reason: reason}
}

// decodeIntent decodes the file's octets, or says why it cannot.
func decodeIntent(b []byte) (_ *Intent, reason string) {
	rest, ok := bytes.CutPrefix(b, []byte(intentHeader))
	if !ok || len(rest) < sha256.Size {
		return nil, "not an intent file of this version"
	}
	body := rest[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, "checksum does not match"
	}
	var c swanherdv1.IntentChunk
	if err := proto.Unmarshal(body, &c); err != nil {
		return nil, err.Error()
	}
	i := &Intent{Epoch: c.GetEpoch(), SourceRevision: c.GetSourceRevision(), Resources: digest.NewSet(c.GetUpserts())}
	if !bytes.Equal(i.Digest(), c.GetResultDigest()) {
		return nil, "digest of the resources does not match"
	}
	return i, ""
}
