package rulesv2

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtmesh/raftstore"
)

// checkPlacedSince requires that every claim of the namespaces on a host or a target was
// made at or before the revision, or is known. It checks the epoch records, which are
// written exactly when an instance gets a host or a target.
func checkPlacedSince(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	args, err := decodeArgs[sinceArgs](raw)
	if err != nil {
		return err
	}
	for _, ns := range args.Namespaces {
		prefix := epochPrefix
		if ns != AllNamespaces {
			prefix += ns + "/"
		}
		v.Ascend(prefix, func(rec raftstore.Record) bool {
			if rec.ModRevision > args.Revision {
				err = args.checkEpoch(v, rec)
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkEpoch refuses an epoch that is newer than what the decision has seen.
func (a sinceArgs) checkEpoch(v raftstore.View, rec raftstore.Record) error {
	last, err := decode[epoch](rec)
	if err != nil {
		return err
	}
	claim, runs := v.Get(instanceKey(last.UID))
	if !runs {
		return nil
	}
	in, err := decode[instance](claim)
	if err != nil {
		return err
	}
	for _, host := range in.hosts() {
		if !slices.Contains(a.Known, Known{in.UID, host}) {
			return fmt.Errorf("instance %s was placed on host %s meanwhile", strings.TrimPrefix(rec.Key, epochPrefix), host)
		}
	}
	return nil
}

// checkMigrationSlots requires that no more migrations run than the stored limits allow,
// in total, from one source and to one target, and that no instance has two migrations at
// once. Without stored limits no migration runs.
func checkMigrationSlots(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	if _, err := decodeArgs[slotArgs](raw); err != nil {
		return err
	}
	stored, ok := v.Get(limitsKey)
	if !ok {
		return errors.New("the mesh has no limits for migrations")
	}
	limit, err := decode[limits](stored)
	if err != nil {
		return err
	}
	total, bySource, byTarget, byVMI := 0, map[string]int{}, map[string]int{}, map[string]int{}
	v.Ascend(migrationPrefix, func(rec raftstore.Record) bool {
		var m migration
		if m, err = decode[migration](rec); err != nil {
			return false
		}
		total++
		bySource[m.Source]++
		byTarget[m.Target]++
		byVMI[m.VMI]++
		switch {
		case total > limit.Total:
			err = fmt.Errorf("%d migrations run already, which is the limit", limit.Total)
		case bySource[m.Source] > limit.PerSource:
			err = fmt.Errorf("host %s has the most outgoing migrations it may have", m.Source)
		case byTarget[m.Target] > limit.PerTarget:
			err = fmt.Errorf("host %s has the most incoming migrations it may have", m.Target)
		case byVMI[m.VMI] > 1:
			err = fmt.Errorf("instance %s is migrating already", m.VMI)
		}
		return err == nil
	})
	return err
}
