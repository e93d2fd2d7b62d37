package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostseal"
)

// openAgainAfter is how often a host tries to open what it could not open before.
const openAgainAfter = time.Minute

// SealKeyring opens what the host could not open of its keyring before, if it now can, seals
// what is on the disk of the keyring, and everything that is written of it from now on. The agent
// calls it again and again, once no earlier version can have to read the files: it then only does
// what is left to do. It may wait for the TPM; no other method waits for it meanwhile.
func (i *Identity) SealKeyring() error {
	i.openingSeals.Lock()
	defer i.openingSeals.Unlock()
	err := i.sealKeyring(i.openShut())
	if err != nil {
		return fault.New(fault.Unavailable, "the keyring of %s is not sealed: %w", i.Host(), err).About(i.Host()).
			WithRemedy("keyring.seal in agent.yaml says with what: 'file' needs no TPM")
	}
	return nil
}

// sealKeyring seals the files of the keyring, after some could not be read.
func (i *Identity) sealKeyring(unread error) error {
	begun := i.secretFiles.seals.Begin()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.secretFiles.sealing = true
	if err := errors.Join(unread, begun); err != nil || i.sealed {
		return err
	}
	secrets, err := encodeSecretKeys(i.secretKeys)
	if err != nil {
		return err
	}
	if err := i.secretFiles.sealAll(map[string][]byte{fileCAKey: i.caKeys.encode(), fileSecretKeys: secrets}); err != nil {
		return err
	}
	i.sealed = true
	return nil
}

// openShut adds to the keyring what the host can open meanwhile. i.openingSeals is held.
func (i *Identity) openShut() error {
	i.mu.Lock()
	files := slices.Sorted(maps.Keys(i.secretFiles.shut))
	i.mu.Unlock()
	if len(files) == 0 || time.Now().Before(i.openAgain) {
		return nil
	}
	i.openAgain = time.Now().Add(openAgainAfter)
	var failed []error
	for _, file := range files {
		plain, err := i.secretFiles.open(file)
		i.mu.Lock()
		if i.secretFiles.shut[file] != nil { // else it was put aside, or deleted
			failed = append(failed, i.takeOpened(file, plain, err))
		}
		i.mu.Unlock()
	}
	return errors.Join(failed...)
}

// takeOpened adds what a file holds to the keyring. i.mu is held.
func (i *Identity) takeOpened(file string, plain []byte, err error) error {
	if errors.Is(err, hostseal.ErrShut) {
		i.secretFiles.note(file, err)
		return nil
	}
	if err != nil {
		return err
	}
	switch nameOfSecretFile(file) {
	case fileCAKey:
		more, err := parseCAKeys(plain)
		if err != nil {
			return fmt.Errorf("read the secret file %s: %w", file, err)
		}
		i.caKeys = more.with(i.caKeys)
	case fileSecretKeys:
		more, err := parseSecretKeys(string(plain))
		if err != nil {
			return fmt.Errorf("read the secret file %s: %w", file, err)
		}
		i.secretKeys = withSecretKeys(more, i.secretKeys)
	}
	i.secretFiles.note(file, nil)
	i.sealed = false
	return nil
}

// beginToWrite asks for what writing the keyring takes, before i.mu is held: the TPM may take
// minutes. If it does not seal, the write says so.
func (i *Identity) beginToWrite() {
	i.mu.Lock()
	sealing := i.secretFiles.sealing
	i.mu.Unlock()
	if sealing {
		_ = i.secretFiles.seals.Begin()
	}
}

// UnopenedCAKeys reports whether there are keys of CAs on the disk of this host that it cannot
// open, or a copy that was put aside. DropCAKeysBut deletes them once they are of no use.
func (i *Identity) UnopenedCAKeys() bool { return i.leftOver(fileCAKey) }

// UnopenedSecretKeys is UnopenedCAKeys for the keys for Secrets; see RetainSecretKeys.
func (i *Identity) UnopenedSecretKeys() bool { return i.leftOver(fileSecretKeys) }

func (i *Identity) leftOver(name string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.secretFiles.leftOver(name)
}

// Sealing tells how this host's keyring is sealed, and what it cannot open.
func (i *Identity) Sealing() hostseal.State { return i.secretFiles.seals.State() }

// Shut returns a fault for each file of the keyring that this host has sealed and cannot open:
// its keys count as not held. SealKeyring tries again to open them. The files stay as they are,
// and are put aside when the host gets the keys again, from another voter or from the recovery
// bundle.
func (i *Identity) Shut() []error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.secretFiles.faults(i.Host())
}

// faults returns what is told of the files that cannot be opened.
func (f *secretFiles) faults(host string) []error {
	var all []error
	for _, name := range secretFileNames {
		err := f.shut[name]
		if err == nil {
			continue
		}
		all = append(all, fault.New(fault.Unavailable, "%s does without keys of its keyring: %w", host, err).About(host).WithRemedy(remedyOfShut(err)))
	}
	return all
}

// remedyOfShut returns what a person does about a file that cannot be opened. A recovery is the
// last: it begins a new timeline of the mesh.
func remedyOfShut(err error) string {
	const others = "another voter gives the host the keys again; if there is none, stop the agent and give them back from the recovery bundle: " +
		"'virtmesh agent recover --keyring-bundle FILE --yes' here, and 'virtmesh agent resync --yes' on every other host"
	switch {
	case errors.Is(err, hostseal.ErrNoChip):
		return "switch the TPM on in the setup of the firmware: the agent tries again each minute; if the TPM is gone for good, " + others
	case hostseal.MayPass(err):
		return "the agent tries again each minute; if it stays so, restart the machine, with its power off for a moment; if the TPM is broken, " + others
	}
	return others
}

// openSecretFiles returns the secret files of an identity folder. If the host has begun to seal,
// it goes on; what keeps it from that is no error, as what is written then is refused.
func openSecretFiles(at string, seals *hostseal.Seals) (*secretFiles, error) {
	begun, err := seals.Begun()
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	return &secretFiles{at: at, seals: seals, sealing: begun}, nil
}
