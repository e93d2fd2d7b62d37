package rulesv1

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtmesh/raftstore"
)

// checkHostCapacity requires that the entries of each host in the arguments add up to
// no more than the host's capacity. A host that has published no capacity accepts no
// claim.
func checkHostCapacity(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	args, err := decodeArgs[hostArgs](raw)
	if err != nil {
		return err
	}
	for _, host := range args.Hosts {
		rec, ok := v.Get(capacityPrefix + host)
		if !ok {
			return fmt.Errorf("host %s has published no capacity", host)
		}
		limit, err := decode[capacity](rec)
		if err != nil {
			return err
		}
		claimed, err := claimedOn(v, host)
		if err != nil {
			return err
		}
		if lacking := limit.Allocatable.lacking(claimed); len(lacking) > 0 {
			return fmt.Errorf("host %s has not enough %s", host, strings.Join(lacking, ", "))
		}
	}
	return nil
}

// claimedOn returns the sum of the entries of a host.
func claimedOn(v raftstore.View, host string) (claimed resources, err error) {
	v.Ascend(hostPrefix+host+"/", func(rec raftstore.Record) bool {
		var r resources
		if r, err = decodeEntry(rec); err != nil {
			return false
		}
		claimed.add(r)
		return true
	})
	return claimed, err
}

// checkVolumeOnce requires that a volume that is not shared has at most one holder, and
// that every holder is an instance with a claim.
func checkVolumeOnce(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	args, err := decodeArgs[volumeArgs](raw)
	if err != nil {
		return err
	}
	for _, key := range args.Keys {
		rec, ok := v.Get(key)
		if !ok {
			continue
		}
		vol, err := decode[volume](rec)
		if err != nil {
			return err
		}
		if !vol.Shared && len(vol.Holders) > 1 {
			return fmt.Errorf("volume %s/%s is in use by %s", vol.Namespace, vol.Claim, holderName(v, vol.Holders))
		}
		for _, uid := range vol.Holders {
			if _, ok := v.Get(instanceKey(uid)); !ok {
				return fmt.Errorf("volume %s/%s is attached to instance %s, which runs nowhere", vol.Namespace, vol.Claim, uid)
			}
		}
	}
	return nil
}

// holderName names the one of a volume's holders that has run the longest: it is the
// one that had the volume before.
func holderName(v raftstore.View, holders []string) string {
	name, since := "instance "+holders[0], uint64(0)
	for _, uid := range holders {
		rec, ok := v.Get(instanceKey(uid))
		if !ok || since != 0 && rec.CreateRevision >= since {
			continue
		}
		if in, err := decode[instance](rec); err == nil {
			name, since = "instance "+in.Namespace+"/"+in.Name, rec.CreateRevision
		}
	}
	return name
}

// checkPlacedSince requires that every instance with a claim in the namespaces was
// placed at or before the revision, or is known. It checks the epoch records, which are
// written exactly when an instance gets a host.
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
	if err != nil || slices.Contains(a.Known, Known{in.UID, in.Host}) {
		return err
	}
	return fmt.Errorf("instance %s was placed meanwhile", strings.TrimPrefix(rec.Key, epochPrefix))
}

// checkMigrationSlots requires that no more migrations run than the arguments allow, in
// total and from one source, and that no instance has two migrations at once.
func checkMigrationSlots(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	args, err := decodeArgs[slotArgs](raw)
	if err != nil {
		return err
	}
	total, bySource, byVMI := 0, map[string]int{}, map[string]int{}
	v.Ascend(migrationPrefix, func(rec raftstore.Record) bool {
		var m migration
		if m, err = decode[migration](rec); err != nil {
			return false
		}
		total++
		bySource[m.Source]++
		byVMI[m.VMI]++
		switch {
		case total > args.Total:
			err = fmt.Errorf("%d migrations run already, which is the limit", args.Total)
		case bySource[m.Source] > args.PerSource:
			err = errors.New("host " + m.Source + " has the most outgoing migrations it may have")
		case byVMI[m.VMI] > 1:
			err = fmt.Errorf("instance %s is migrating already", m.VMI)
		}
		return err == nil
	})
	return err
}
