//go:build tpm

package edge

import "github.com/swanherd/swanherd/edge/tpm"

func openTPM(path string) (TPM, error) { return tpm.Open(path) }
