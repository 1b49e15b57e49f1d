//go:build tpm

package tpm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// TPM is a TPM 2.0 of this machine.
type TPM struct {
	path string
	mu   sync.Mutex // one use at a time
}

// Open returns the TPM at path, a device such as /dev/tpmrm0, or a socket of an emulator. It
// is an error if none answers there.
func Open(path string) (*TPM, error) {
	t := &TPM{path: path}
	err := t.use(func(dev transport.TPM) error {
		_, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTFamilyIndicator), PropertyCount: 1}.Execute(dev)
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// use opens the TPM for f. Others on this machine may use it before and after.
func (t *TPM) use(f func(transport.TPM) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err != nil {
		return fmt.Errorf("find TPM: %w; /dev/tpmrm0 is where Linux has it", err)
	}
	open := linuxtpm.Open
	if info.Mode()&fs.ModeSocket != 0 {
		open = linuxudstpm.Open
	}
	dev, err := open(t.path)
	if err != nil {
		return fmt.Errorf("open TPM: %w", err)
	}
	if err := errors.Join(f(dev), dev.Close()); err != nil {
		return fmt.Errorf("use TPM at %s: %w", t.path, err)
	}
	return nil
}

// object is one that is loaded.
type object struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPM2BPublic
}

// named is the object in a command that needs no authorization of it.
func (o *object) named() tpm2.NamedHandle { return tpm2.NamedHandle{Handle: o.handle, Name: o.name} }

// open is the object in a command that needs one: its auth value is empty.
func (o *object) open() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: o.handle, Name: o.name, Auth: tpm2.PasswordAuth(nil)}
}

// flush unloads the object, and adds to err if that fails.
func (o *object) flush(dev transport.TPM, err *error) {
	if _, ferr := (tpm2.FlushContext{FlushHandle: o.handle}).Execute(dev); ferr != nil {
		*err = errors.Join(*err, fmt.Errorf("unload an object: %w", ferr))
	}
}

// primary makes a primary object: the same each time, of the same template.
func primary(dev transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (*object, error) {
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template),
	}.Execute(dev)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		err = fmt.Errorf("%w; the TPM has an owner's or an endorsement password, and this agent works with neither", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make primary key: %w", err)
	}
	return &object{r.ObjectHandle, r.Name, r.OutPublic}, nil
}
