package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// KnownUplink is an uplink that was found, and the name that it was given.
type KnownUplink struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	// HardwareAddress is that of the interface, empty if it has none of its own.
	HardwareAddress string `json:"hardware_address,omitempty"`
	// Seen is the day on which it was last there, in UTC.
	Seen time.Time `json:"seen"`
}

func (d *Dir) uplinksPath() string { return filepath.Join(d.path, "uplinks.json") }

// SaveUplinks makes known what LoadUplinks returns after a restart.
func (d *Dir) SaveUplinks(known []KnownUplink) error {
	b, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return fmt.Errorf("encode uplinks: %w", err)
	}
	return writeFile(d.uplinksPath(), b)
}

// LoadUplinks returns the uplinks that are known. What cannot be read is an error; the edge
// can go on with none, and names them anew.
func (d *Dir) LoadUplinks() ([]KnownUplink, error) {
	b, err := os.ReadFile(d.uplinksPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read uplinks: %w", err)
	}
	var known []KnownUplink
	if err := json.Unmarshal(b, &known); err != nil {
		return nil, fmt.Errorf("%s is broken: %w", d.uplinksPath(), err)
	}
	return known, nil
}
