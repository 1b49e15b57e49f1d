package lab_test

import (
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestKernelOld and TestKernelNew are TestKernelPlane on other kernels: the oldest that
// is supported, and one that is new.
func TestKernelOld(t *testing.T) { planeOn(t, lab.KernelOldDir) }

func TestKernelNew(t *testing.T) { planeOn(t, lab.KernelNewDir) }

func planeOn(t *testing.T, kernel string) {
	if inGuest() {
		TestKernelPlane(t)
		return
	}
	runInGuest(t, kernel, lab.TreeStrongSwan)
}
