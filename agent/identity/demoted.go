package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/raftstore"
)

// DemotedRecord lists the hosts that have voted and may not vote any more, as long as keys are
// in use that they had.
type DemotedRecord struct {
	Hosts []DemotedVoter `json:"hosts"`
}

// DemotedVoter is a host that has held the keyring of the voters, and that the administrator
// does not let vote any more.
type DemotedVoter struct {
	Host string `json:"host"`
	// Since is when the host was seen voting last, about.
	Since time.Time `json:"since"`
	// CAPins are the pins of the CAs whose keys it had, sorted: two while the CA was being
	// replaced. SecretKeys name the keys for Secrets.
	CAPins     []string `json:"caPins"`
	SecretKeys []string `json:"secretKeys,omitempty"`
}

// InUse returns what of the host's keys is still in use, where cas are the pins of the CAs that
// the mesh needs, and secrets the keys that may have encrypted something.
func (d DemotedVoter) InUse(cas, secrets []string) (caKey bool, secretKeys []string) {
	secretKeys = slices.DeleteFunc(slices.Clone(d.SecretKeys), func(id string) bool { return !slices.Contains(secrets, id) })
	return slices.ContainsFunc(d.CAPins, func(pin string) bool { return slices.Contains(cas, pin) }), secretKeys
}

// ReadDemoted returns the record of the demoted voters, and how it is stored; both are empty if
// there is none.
func ReadDemoted(ctx context.Context, store Store, opts raftstore.ReadOptions) (DemotedRecord, raftstore.Record, error) {
	var rec DemotedRecord
	stored, err := readJSON(ctx, store, KeyDemoted, opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		return DemotedRecord{}, raftstore.Record{}, nil
	}
	return rec, stored, err
}

// StoreDemoted replaces the record of the demoted voters if it is still stored as it was read,
// and deletes it if it lists nobody.
func StoreDemoted(ctx context.Context, store Store, stored raftstore.Record, rec DemotedRecord) error {
	op := raftstore.Op{Key: KeyDemoted, Delete: true}
	if len(rec.Hosts) > 0 {
		var err error
		if op, err = putOp(KeyDemoted, rec); err != nil {
			return err
		}
	}
	_, err := store.Commit(ctx, raftstore.Txn{
		If: []raftstore.Condition{{Key: KeyDemoted, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("record which hosts may not vote any more: %w", err)
	}
	return nil
}
