//go:build !tpm

package edge

import "errors"

func openTPM(string) (TPM, error) {
	return nil, errors.New("this agent was built without what it takes to use a TPM; build it with `go build -tags tpm`")
}
