package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxEngineMemory bounds what the engine remembers, in octets: about a thousand
// for each tunnel.
const maxEngineMemory = 64 << 20

// EngineMemory is where the IKE engine keeps what it wants to find again after
// a restart; it implements engine.Store.
type EngineMemory struct{ path string }

// EngineMemory returns the memory of the engine that this edge runs.
func (d *Dir) EngineMemory() EngineMemory {
	return EngineMemory{filepath.Join(d.path, "engine.json")}
}

// Load returns what was saved last, nil if nothing was.
func (m EngineMemory) Load() ([]byte, error) {
	b, err := readPrivate(m.path, maxEngineMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the engine's memory: %w", err)
	}
	return b, nil
}

// Save replaces it as a whole.
func (m EngineMemory) Save(b []byte) error { return writeFile(m.path, b) }

// clear removes what a crash left behind.
func (m EngineMemory) clear() {
	written, _ := filepath.Glob(temporaryOf(m.path))
	for _, path := range written {
		_ = os.Remove(path)
	}
}
