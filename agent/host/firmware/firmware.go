// Package firmware keeps on this host what the firmware and the TPMs of machines keep
// between their instances.
//
// A machine has a folder, named by the UUID of the machine. In it are the variables of
// the firmware and a file that names the PersistentVolumeClaim for which they are kept.
// The state of a TPM is where the hypervisor keeps it, under a UUID that follows from
// that of the machine. The folder is there as long as the claim is, so a claim whose
// folder is missing shows that its state is lost. Once the TPM has run, the folder says
// so, and a TPM whose state is missing then is lost too.
package firmware

import (
	"bytes"
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
	// claim. tpmFile is there once the machine's TPM has run, with the UID of the claim
	// that it ran for: the next claim stands for whatever is here when it is made.
	variablesFile = "variables.fd"
	secureFile    = "secure-variables.fd"
	claimFile     = "claim"
	tpmFile       = "tpm"
)

// TPMs is the part of a hypervisor that this package uses.
type TPMs interface {
	// RemoveTPM removes the state that the TPM of the domain with that UUID has left.
	RemoveTPM(ctx context.Context, uuid string) error
	// HasTPM reports whether there is such state.
	HasTPM(ctx context.Context, uuid string) (bool, error)
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

// TPMStarted records that the TPM of the machine has run, so that LostTPM finds out when
// its state is gone. It may be called again. It fails if the TPM has left no state where
// it would be looked for: later that would be taken for a loss.
//
// The record is made after the start, because before it nobody can tell a TPM that has
// not run from one whose state is gone. If the agent ends in between, the caller calls
// TPMStarted when it finds the guest, or after the next start.
func (s *Store) TPMStarted(ctx context.Context, machine string) error {
	ran, claim, err := s.tpmRan(machine)
	if ran || err != nil {
		return err
	}
	has, err := s.tpms.HasTPM(ctx, domain.TPMUUID(machine))
	if err == nil && !has {
		err = fmt.Errorf("the hypervisor keeps no state with the uuid %s", domain.TPMUUID(machine))
	}
	if err == nil {
		err = durable.WriteFile(filepath.Join(s.dir, machine, tpmFile), claim, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record that the TPM of machine %s has run: %w", machine, err)
	}
	return nil
}

// LostTPM reports whether the TPM of the machine has run for its claim and its state is
// gone. A start would then make a new TPM in its place.
func (s *Store) LostTPM(ctx context.Context, machine string) (bool, error) {
	ran, _, err := s.tpmRan(machine)
	if !ran || err != nil {
		return false, err
	}
	has, err := s.tpms.HasTPM(ctx, domain.TPMUUID(machine))
	if err != nil {
		return false, fmt.Errorf("look for the TPM of machine %s: %w", machine, err)
	}
	return !has, nil
}

// tpmRan reads whether the machine's TPM has run for the claim that the state is kept for.
func (s *Store) tpmRan(machine string) (ran bool, claim []byte, err error) {
	claim, err = os.ReadFile(filepath.Join(s.dir, machine, claimFile))
	if err != nil {
		return false, nil, fmt.Errorf("read what is kept for machine %s: %w", machine, err)
	}
	of, err := os.ReadFile(filepath.Join(s.dir, machine, tpmFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, nil, fmt.Errorf("read what is kept for machine %s: %w", machine, err)
	}
	return err == nil && bytes.Equal(of, claim), claim, nil
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
	for _, path := range []string{s.Variables(machine, false), s.Variables(machine, true),
		filepath.Join(folder, tpmFile), filepath.Join(folder, claimFile), folder} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the state of machine %s: %w", machine, err)
		}
	}
	return durable.Sync(s.dir)
}
