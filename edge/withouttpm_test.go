//go:build !tpm

package edge

import (
	"path/filepath"
	"strings"
	"testing"
)

// An agent that cannot use a TPM says so, and does not keep its key elsewhere.
func TestWithoutTPM(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for range 2 { // the directory is not left locked
		if _, _, err := OpenState(dir, "/dev/tpmrm0"); err == nil || !strings.Contains(err.Error(), "-tags tpm") {
			t.Fatalf("OpenState = %v, want what to build", err)
		}
	}
	d, _, err := OpenState(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}
