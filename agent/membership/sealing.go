package membership

import (
	"errors"
	"fmt"
	"slices"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/hostseal/tpm"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// sealKeyring seals this host's keyring on its disk, also one that holds nothing yet. It waits
// for the level at which no earlier version, which could not read it, can come back.
func (k keyringKeeper) sealKeyring() error {
	if k.level() < level.Succession {
		return nil
	}
	return k.identity.SealKeyring()
}

// mayOpenKeys reports whether a host has keys on its disk that it cannot open now, and may later.
func mayOpenKeys(id *identity.Identity) bool { return slices.ContainsFunc(id.Shut(), hostseal.MayPass) }

// keyringSeal returns what operators are told of how this host's keyring is sealed.
func (m *Member) keyringSeal() admin.KeyringSeal {
	state := m.identity.Sealing()
	seal := admin.KeyringSeal{With: state.Kind, FellBack: state.FellBack}
	switch {
	case errors.Is(state.NoTPM, hostseal.ErrNoChip):
		seal.NoTPM = hostseal.ErrNoChip.Error()
	case state.NoTPM != nil:
		seal.NoTPM = state.NoTPM.Error()
	}
	for _, shut := range m.identity.Shut() {
		seal.Shut = append(seal.Shut, shut.Error())
	}
	return seal
}

// sealWarnings warns of keys that a host has on its disk and cannot open, and of a TPM that seals
// them no more: from then on whoever has the disk has the keys.
func sealWarnings(host string, k *admin.KeyringStatus) []string {
	if k == nil {
		return nil
	}
	list := slices.Clone(k.Seal.Shut)
	if k.Seal.FellBack {
		list = append(list, fmt.Sprintf("the keyring of %s is sealed with a file of root's, and no more with the TPM (%s): 'virtmesh doctor' there says what to do", host, k.Seal.NoTPM))
	}
	return list
}

// ReadBundle returns what a recovery bundle holds by the keyring in a state directory, which it
// does not change. The agent whose directory it is must not run.
func ReadBundle(stateDir string) (identity.Bundle, error) {
	return identity.ReadBundle(stateDir, hostseal.Open(stateDir, hostseal.Options{Chip: tpm.New(tpm.DefaultDevice)}))
}
