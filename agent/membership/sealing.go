package membership

import (
	"errors"
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
	seal := admin.KeyringSeal{With: state.Kind}
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

// shutKeyring warns of keys that this host has on its disk and cannot open.
func shutKeyring(k *admin.KeyringStatus) []string {
	if k == nil {
		return nil
	}
	return k.Seal.Shut
}

// ReadBundle returns what a recovery bundle holds by the keyring in a state directory, which it
// does not change. The agent whose directory it is must not run.
func ReadBundle(stateDir string) (identity.Bundle, error) {
	return identity.ReadBundle(stateDir, hostseal.Open(stateDir, hostseal.Options{Chip: tpm.New(tpm.DefaultDevice)}))
}
