package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func (d *Dir) trialPath() string { return filepath.Join(d.path, "trial.binpb") }

// SaveTrial notes, beside the intent, which update is tried, or was and is not kept; nil
// forgets it.
func (d *Dir) SaveTrial(t *swanherdv1.Reverted) error {
	if t == nil {
		if err := os.Remove(d.trialPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget a trial: %w", err)
		}
		return syncDir(d.path)
	}
	b, err := proto.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode trial: %w", err)
	}
	return writeFile(d.trialPath(), b)
}

// LoadTrial returns what SaveTrial noted last, nil for nothing. A note that cannot be read
// is an error and gone: it says no more than why an update was taken back.
func (d *Dir) LoadTrial() (*swanherdv1.Reverted, error) {
	b, err := os.ReadFile(d.trialPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read trial: %w", err)
	}
	t := &swanherdv1.Reverted{}
	if err := proto.Unmarshal(b, t); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is broken: %w", d.trialPath(), err), d.SaveTrial(nil))
	}
	return t, nil
}
