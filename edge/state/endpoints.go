package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Endpoints is where the controller is reached, `host:port` each.
type Endpoints struct {
	// Enrolled are those that the identity came with; the others are void with
	// another identity.
	Enrolled []string `json:"enrolled"`
	// Current are those that the controller redirected to last.
	Current []string `json:"current"`
	// Last is the one at which the last session was.
	Last string `json:"last"`
}

func (d *Dir) endpointsPath() string { return filepath.Join(d.path, "endpoints.json") }

// SaveEndpoints makes e what LoadEndpoints returns after a restart.
func (d *Dir) SaveEndpoints(e Endpoints) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("encode endpoints: %w", err)
	}
	return writeFile(d.endpointsPath(), b)
}

// LoadEndpoints returns what is known beside what enrolment told. What cannot be read is an
// error; what is returned can be used nevertheless.
func (d *Dir) LoadEndpoints(enrolled []string) (Endpoints, error) {
	preset := Endpoints{Enrolled: enrolled, Current: enrolled}
	b, err := os.ReadFile(d.endpointsPath())
	if errors.Is(err, fs.ErrNotExist) {
		return preset, nil
	}
	if err != nil {
		return preset, fmt.Errorf("read endpoints: %w", err)
	}
	var e Endpoints
	if err := json.Unmarshal(b, &e); err != nil {
		return preset, fmt.Errorf("%s is broken, going on with the endpoints of enrolment: %w", d.endpointsPath(), err)
	}
	if !slices.Equal(e.Enrolled, enrolled) || len(e.Current) == 0 {
		return preset, nil
	}
	return e, nil
}
