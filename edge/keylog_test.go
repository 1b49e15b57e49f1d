package edge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenKeyLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	for range 2 { // it appends
		log, files, err := openKeyLog(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.IKE.Write([]byte("line\n")); err != nil {
			t.Error(err)
		}
		closeAll(files)
	}
	for name, want := range map[string]string{"ikev2_decryption_table": "line\nline\n", "esp_sa": ""} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if b, _ := os.ReadFile(path); string(b) != want {
			t.Errorf("%s holds %q", name, b)
		}
	}
}

// A key log is not written where others may read it.
func TestOpenKeyLogRefuses(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"chmod 700": func(dir string) error { return os.Chmod(dir, 0o750) },
		"mode 0644": func(dir string) error {
			path := filepath.Join(dir, "esp_sa")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chmod(path, 0o644)
		},
		"esp_sa": func(dir string) error {
			return os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "esp_sa"))
		},
		"make direct": func(dir string) error { return os.WriteFile(filepath.Join(dir, "sub"), nil, 0o600) },
	} {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if name == "make direct" {
			dir = filepath.Join(dir, "sub")
		}
		if _, files, err := openKeyLog(dir); err == nil || files != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
