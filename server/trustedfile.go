package server

import (
	"bytes"
	"log/slog"
	"os"
	"sync"
)

// trustedFile is a file of authorities in PEM, as it is now. One that cannot be read, or
// holds something else, changes nothing.
type trustedFile struct {
	path  string
	whose string // the authorities are, for the log
	log   *slog.Logger
	// take has what the file says count, or says what is wrong with it, under mu.
	take func(text []byte) error

	mu   sync.Mutex
	text []byte // of the file, as it was read last
	// mistake is what is wrong with it, said is what was logged.
	mistake error
	said    string
}

// read takes what the file has now. It reads under the lock: what another goroutine read
// before must not come in after it.
func (f *trustedFile) read() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	first := f.text == nil
	if !first && bytes.Equal(text, f.text) {
		return f.mistake
	}
	f.text = text
	if f.mistake = f.take(text); f.mistake != nil {
		return f.mistake
	}
	if !first {
		f.log.Info("the authorities of "+f.whose+" changed", "file", f.path)
	}
	return nil
}

// refresh reads the file again; what is wrong with it is logged, once, and the authorities stay.
func (f *trustedFile) refresh() {
	text := ""
	if err := f.read(); err != nil {
		text = err.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if text != "" && text != f.said {
		f.log.Warn("the authorities of "+f.whose+" stay as they are", "file", f.path, "error", text)
	}
	f.said = text
}
