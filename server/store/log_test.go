package store

import (
	"bytes"
	"log/slog"
	"testing"
)

// An operator sees nothing of etcd's own when it starts and stops as it should.
func TestEmbeddedStartIsQuiet(t *testing.T) {
	var out bytes.Buffer
	s, err := Open(t.Context(), Config{DataDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 {
		t.Errorf("the log says:\n%s", out.String())
	}
}

// What etcd repeats all the time it says once in a while.
func TestRepeatedWarnings(t *testing.T) {
	var out bytes.Buffer
	log := zapLogger(slog.New(slog.NewTextHandler(&out, nil)))
	for range 1000 {
		log.Warn("prober detected unhealthy status")
	}
	log.Warn("lost leader")
	log.Warn("b71f75320dc06a6c cannot campaign at term 1 since there are still pending configuration changes to apply")
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 2 || !bytes.Contains(out.Bytes(), []byte("lost leader")) {
		t.Errorf("%d lines:\n%.500s", n, out.String())
	}
}
