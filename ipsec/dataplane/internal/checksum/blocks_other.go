//go:build !amd64

package checksum

func addBlocks(b []byte) uint64 { return addBlocksGeneric(b) }
