package edge

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/engine"
)

// openKeyLog opens the files of a key log in dir under the names that Wireshark
// gives its tables, so that dir can be its configuration directory. Others on
// this machine must not see them: it refuses a directory that they may enter,
// and a file that is somewhere else or has another mode than 0600.
func openKeyLog(dir string) (log engine.KeyLog, files []*os.File, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return log, nil, fmt.Errorf("make directory of the key log: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return log, nil, fmt.Errorf("inspect directory of the key log: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return log, nil, fmt.Errorf("directory %s of the key log has mode %04o and would show keys to others; run: chmod 700 %s", dir, perm, dir)
	}
	for _, name := range []string{"ikev2_decryption_table", "esp_sa"} {
		f, err := openPrivate(filepath.Join(dir, name))
		if err != nil {
			closeAll(files)
			return engine.KeyLog{}, nil, fmt.Errorf("open key log: %w", err)
		}
		files = append(files, f)
	}
	return engine.KeyLog{IKE: files[0], ESP: files[1]}, files, nil
}

func openPrivate(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("%s has mode %04o and would show keys to others; remove it", path, info.Mode().Perm())
	default:
		return f, nil
	}
	_ = f.Close()
	return nil, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // what was not written is lost; it was for debugging
	}
}
