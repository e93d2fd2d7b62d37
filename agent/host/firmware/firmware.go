// Package firmware keeps on this host what the firmware and the TPMs of machines keep
// between their instances.
//
// A machine has a folder, named by the UUID of the machine. In it are the variables of
// the firmware and a file that names the PersistentVolumeClaim for which they are kept.
// The state of a TPM is where the hypervisor keeps it, under a UUID that follows from
// that of the machine. The folder is there as long as the claim is, so a claim whose
// folder is missing shows that its state is lost.
package firmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/host/domain"
	"virtmesh/storage/durable"
)

const (
	// variablesFile and secureFile are the files in a machine's folder with the variables
	// of its firmware without and with secure boot, claimFile is that with the UID of the
	// claim.
	variablesFile = "variables.fd"
	secureFile    = "secure-variables.fd"
	claimFile     = "claim"
)

// TPMs is the part of a hypervisor that this package uses.
type TPMs interface {
	// RemoveTPM removes the state that the TPM of the domain with that UUID has left.
	RemoveTPM(ctx context.Context, uuid string) error
}

// Store is the folder of all machines of this host that keep state. Its methods may be
// called at once, though not for the same machine.
type Store struct {
	dir  string
	tpms TPMs
}

// Open returns the store in dir, which it makes if it is missing. The emulators of guests
// run under a user of their own and must be able to pass through dir.
func Open(dir string, tpms TPMs) (*Store, error) {
	if err := makeFolder(dir); err != nil {
		return nil, fmt.Errorf("open the state of machines: %w", err)
	}
	return &Store{dir: dir, tpms: tpms}, nil
}

// makeFolder makes a folder that others can pass through but not list.
func makeFolder(path string) error {
	const mode = 0o711
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}

// Variables returns the path of the file for the variables of the machine's firmware.
// With secure boot it is another: the keys against which the firmware verifies what it
// starts are among the variables.
func (s *Store) Variables(machine string, secureBoot bool) string {
	if secureBoot {
		return filepath.Join(s.dir, machine, secureFile)
	}
	return filepath.Join(s.dir, machine, variablesFile)
}

// Keep makes room for the state of the machine, for the claim with that UID. State that
// is there already stays: it is the machine's, whatever claim it was kept for before.
func (s *Store) Keep(machine string, claim types.UID) error {
	if _, err := uuid.Parse(machine); err != nil {
		return fmt.Errorf("keep the state of machine %q: %w", machine, err)
	}
	folder := filepath.Join(s.dir, machine)
	err := makeFolder(folder)
	if err == nil {
		err = durable.WriteFile(filepath.Join(folder, claimFile), []byte(claim), 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the state of machine %s: %w", machine, err)
	}
	return nil
}

// KeptFor returns the machine whose state is kept here for the claim with that UID; empty
// if there is none.
func (s *Store) KeptFor(claim types.UID) (machine string, err error) {
	folders, err := os.ReadDir(s.dir)
	if err != nil {
		return "", fmt.Errorf("look for the state of claim %s: %w", claim, err)
	}
	for _, folder := range folders {
		has, err := os.ReadFile(filepath.Join(s.dir, folder.Name(), claimFile))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Keep did not get that far.
		case err != nil:
			return "", fmt.Errorf("look for the state of claim %s: %w", claim, err)
		case types.UID(has) == claim:
			return folder.Name(), nil
		}
	}
	return "", nil
}

// Remove removes the state that is kept for the claim with that UID, if there is any. It
// fails while the domain of the machine is defined.
func (s *Store) Remove(ctx context.Context, claim types.UID) error {
	machine, err := s.KeptFor(claim)
	if machine == "" || err != nil {
		return err
	}
	if err := s.tpms.RemoveTPM(ctx, domain.TPMUUID(machine)); err != nil {
		return fmt.Errorf("remove the state of machine %s: %w", machine, err)
	}
	// The file that names the claim goes last: without it the rest would not be found.
	folder := filepath.Join(s.dir, machine)
	for _, path := range []string{s.Variables(machine, false), s.Variables(machine, true), filepath.Join(folder, claimFile), folder} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the state of machine %s: %w", machine, err)
		}
	}
	return durable.Sync(s.dir)
}
