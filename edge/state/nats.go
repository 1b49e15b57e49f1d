package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func (d *Dir) natsPath() string { return filepath.Join(d.path, "nats.json") }

// SaveNATs makes known what LoadNATs returns after a restart.
func (d *Dir) SaveNATs(known []*swanherdv1.UplinkNat) error {
	b, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(&swanherdv1.Uplink{Nats: known})
	if err != nil {
		return fmt.Errorf("encode what NATs do: %w", err)
	}
	return writeFile(d.natsPath(), b)
}

// LoadNATs returns how uplinks looked from outside before a restart, so that the controller
// is not told that nobody knows. What cannot be read is an error; it is asked anew in
// any case.
func (d *Dir) LoadNATs() ([]*swanherdv1.UplinkNat, error) {
	b, err := os.ReadFile(d.natsPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what NATs did: %w", err)
	}
	var known swanherdv1.Uplink
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &known); err != nil {
		return nil, fmt.Errorf("%s is broken: %w", d.natsPath(), err)
	}
	return known.GetNats(), nil
}
