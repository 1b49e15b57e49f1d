package job

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxFile is what a bundle takes of each file at most, in octets, before compression: its
// end, as that is what came last.
const maxFile = 1 << 20

// bundle collects files into an archive. Those that leave no room in it are named in the last one.
func (r *Runner) bundle(ctx context.Context) *swanherdv1.JobReport {
	files := r.cfg.Files(ctx)
	names := slices.Sorted(maps.Keys(files))
	for left := []string{}; ; {
		b, err := archive(files, names, left, time.Now())
		if err != nil {
			return failed(fmt.Errorf("make the archive: %w", err))
		}
		if len(b) <= maxOutput {
			return &swanherdv1.JobReport{Output: b}
		}
		largest := slices.MaxFunc(names, func(a, b string) int { return len(files[a]) - len(files[b]) })
		names = slices.DeleteFunc(names, func(n string) bool { return n == largest })
		left = append(left, largest)
	}
}

// archive makes a tar archive under gzip of the files that are named, and of a list of those left
// out.
func archive(files map[string][]byte, names, left []string, now time.Time) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	tape := tar.NewWriter(zip)
	add := func(name string, data []byte) error {
		data = data[max(0, len(data)-maxFile):]
		if err := tape.WriteHeader(&tar.Header{Name: "bundle/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: now}); err != nil {
			return err
		}
		_, err := tape.Write(data)
		return err
	}
	for _, name := range names {
		if err := add(name, files[name]); err != nil {
			return nil, err
		}
	}
	if len(left) > 0 {
		if err := add("left-out.txt", fmt.Appendf(nil, "too large: %q\n", left)); err != nil {
			return nil, err
		}
	}
	if err := tape.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
