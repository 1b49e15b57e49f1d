package store

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
)

// maxInflated bounds what a compressed value may become, in octets.
const maxInflated = 64 << 20

// compress makes a value small: resources of a fleet resemble one another.
func compress(b []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil { // of a level that does not exist
		panic(err)
	}
	_, _ = w.Write(b) // a buffer takes everything
	_ = w.Close()
	return out.Bytes()
}

func decompress(b []byte) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxInflated+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(out) > maxInflated {
		return nil, fmt.Errorf("decompress: more than %d octets", maxInflated)
	}
	return out, nil
}
