package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// An asset is one built file, compressed once at the start.
type asset struct {
	contentType string
	etag        string
	plain, gzip []byte
}

// assets serves the built user interface. Files under /assets have a hash of
// their content in their name and never change; everything else that is not a
// file is a view of the one page.
type assets map[string]*asset

func newAssets(files fs.FS) (assets, error) {
	a := assets{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		a["/"+name], err = newAsset(name, b)
		return err
	})
	if err != nil {
		return nil, err
	}
	if a["/index.html"] == nil {
		return nil, fmt.Errorf("the build has no index.html; run `go run ./deployments/dev ui`")
	}
	return a, nil
}

func newAsset(name string, b []byte) (*asset, error) {
	sum := sha256.Sum256(b)
	contentType := mime.TypeByExtension(path.Ext(name))
	if path.Ext(name) == ".js" {
		contentType = "text/javascript; charset=utf-8" // whatever the host's mime.types says
	}
	x := &asset{contentType: contentType, etag: `"` + hex.EncodeToString(sum[:8]) + `"`, plain: b}
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if z.Len() < len(b) {
		x.gzip = z.Bytes()
	}
	return x, nil
}

func (a assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := a[r.URL.Path]
	h := w.Header()
	switch {
	case x != nil && strings.HasPrefix(r.URL.Path, "/assets/"):
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	case x == nil && path.Ext(r.URL.Path) != "":
		http.NotFound(w, r)
		return
	case x == nil:
		x = a["/index.html"]
		fallthrough
	default:
		h.Set("Cache-Control", "no-cache")
	}
	h.Set("Content-Type", x.contentType)
	h.Set("ETag", x.etag)
	h.Set("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == x.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := x.plain
	if x.gzip != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = x.gzip
	}
	// A write fails only when the browser is gone.
	_, _ = w.Write(body)
}
