package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostseal"
)

// SealKeyring seals what is on the disk of this host's keyring, and everything that is written of
// it from now on. The agent calls it once no earlier version can have to read the files. It may be
// called again: it then only does what is left to do, and nothing once all is done.
func (i *Identity) SealKeyring() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.sealed {
		return nil
	}
	if err := i.secretFiles.sealAll(); err != nil {
		return fault.New(fault.Unavailable, "the keyring of %s is not sealed: %w", i.Host(), err).About(i.Host()).
			WithRemedy("keyring.seal in agent.yaml says with what: 'file' needs no TPM")
	}
	i.sealed = true
	return nil
}

// Sealing tells how this host's keyring is sealed, and what it cannot open.
func (i *Identity) Sealing() hostseal.State {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.secretFiles.seals.State()
}

// Shut returns a fault for each file of the keyring that this host has sealed and cannot open:
// its keys count as not held. The files stay as they are, and are put aside when the host gets
// the keys again, from another voter or from the recovery bundle.
func (i *Identity) Shut() []error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.secretFiles.faults(i.Host())
}

// faults returns what is told of the files that cannot be opened.
func (f *secretFiles) faults(host string) []error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(f.shut)) {
		err := f.shut[name]
		remedy := "another voter gives the host the keys again; if there is none, stop the agent and give them back from the recovery bundle: 'virtmesh agent recover --keyring-bundle FILE'"
		if errors.Is(err, hostseal.ErrNoChip) {
			remedy = "switch the TPM on in the setup of the firmware and start the agent again; without it, " + remedy
		}
		all = append(all, fault.New(fault.Unavailable, "%s does without keys of its keyring: %w", host, err).About(host).WithRemedy(remedy))
	}
	return all
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
