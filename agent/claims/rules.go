package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// Names of the rules, as they appear in the error of a refused transaction.
const (
	RuleHostCapacity   = "host-capacity"
	RuleVMIOnce        = "vmi-once"
	RuleVolumeOnce     = "volume-once"
	RuleMigrationSlots = "migration-slots"
)

// Rules returns the constraints that a store with claims must have. They are pure
// functions of the state and the transaction. All of them are in the first release, so
// none needs a feature level.
func Rules() []raftstore.Constraint {
	return []raftstore.Constraint{
		{Name: RuleHostCapacity, Version: 1, Check: checkHostCapacity},
		{Name: RuleVMIOnce, Version: 1, Check: checkVMIOnce},
		{Name: RuleVMIOnce, Version: 2, Check: checkVMIOnceAboveFloor},
		{Name: RuleVolumeOnce, Version: 1, Check: checkVolumeOnce},
		{Name: RulePlacedSince, Version: 1, Check: checkPlacedSince},
		{Name: RuleMigrationSlots, Version: 1, Check: checkMigrationSlots},
	}
}

// demandRule returns the call of version 1 of a rule.
func demandRule(rule string, args any) raftstore.ConstraintCall {
	return raftstore.ConstraintCall{Name: rule, Version: 1, Args: encodeValue(args)}
}

// demandVMIOnce returns the call of the newest version of RuleVMIOnce. A version that
// was ever demanded must stay in Rules: without it, a log that names it could not be
// replayed.
func demandVMIOnce(uid types.UID) raftstore.ConstraintCall {
	return raftstore.ConstraintCall{Name: RuleVMIOnce, Version: 2, Args: encodeValue(vmiArgs{[]types.UID{uid}})}
}

// Arguments of the rules.
type (
	hostArgs   struct{ Hosts []string }
	vmiArgs    struct{ UIDs []types.UID }
	volumeArgs struct{ Keys []string }
	slotArgs   struct{ Total, PerSource int }
)

// checkHostCapacity requires that the entries of each host in the arguments add up to
// no more than the host's capacity. A host that has published no capacity accepts no
// claim.
func checkHostCapacity(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	var args hostArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	for _, host := range args.Hosts {
		rec, ok := v.Get(capacityKey(host))
		if !ok {
			return fmt.Errorf("host %s has published no capacity", host)
		}
		capacity, err := decodeValue[Capacity](rec)
		if err != nil {
			return err
		}
		sum, err := claimedOn(v, host)
		if err != nil {
			return err
		}
		if lacking := capacity.Allocatable.Lacking(sum); len(lacking) > 0 {
			return fmt.Errorf("host %s has not enough %s", host, strings.Join(lacking, ", "))
		}
	}
	return nil
}

// claimedOn returns the sum of the entries of a host.
func claimedOn(v raftstore.View, host string) (sum machine.Resources, err error) {
	v.Ascend(hostEntries(host), func(rec raftstore.Record) bool {
		var e Entry
		if e, err = decodeEntry(rec); err != nil {
			return false
		}
		sum = sum.Add(e.Resources)
		return true
	})
	return sum, err
}

// checkVMIOnce requires that an instance has entries on exactly the hosts that its
// record names, and that the epoch record of its name is its own.
func checkVMIOnce(v raftstore.View, t *raftstore.Txn, raw []byte) error {
	var args vmiArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	for _, uid := range args.UIDs {
		hosts, err := namedHosts(v, uid)
		if err != nil {
			return err
		}
		for _, host := range hosts {
			if _, ok := v.Get(hostKey(host, uid)); !ok {
				return fmt.Errorf("instance %s has no claim on host %s that its record names", uid, host)
			}
		}
		if host, ok := strayEntry(v, t, uid, hosts); ok {
			return fmt.Errorf("instance %s has a claim on host %s that its record does not name", uid, host)
		}
	}
	return nil
}

// checkVMIOnceAboveFloor is checkVMIOnce with one more requirement: an instance whose
// name had no epoch record before must get an epoch above the floor, so that no epoch
// that the name had before its record was deleted is used again.
func checkVMIOnceAboveFloor(v raftstore.View, t *raftstore.Txn, raw []byte) error {
	if err := checkVMIOnce(v, t, raw); err != nil {
		return err
	}
	rec, ok := v.Get(floorKey)
	if !ok {
		return nil
	}
	floor, err := decodeValue[Floor](rec)
	if err != nil {
		return err
	}
	for _, op := range t.Ops {
		if op.Delete || !strings.HasPrefix(op.Key, epochPrefix) {
			continue
		}
		rec, ok := v.Get(op.Key)
		if !ok || rec.CreateRevision != rec.ModRevision {
			continue // the name had an epoch record, and the transaction requires its revision
		}
		epoch, err := decodeValue[Epoch](rec)
		if err != nil {
			return err
		}
		if epoch.Epoch <= floor.Epoch {
			return fmt.Errorf("epoch %d of %s is not above %d, the highest that was forgotten",
				epoch.Epoch, strings.TrimPrefix(op.Key, epochPrefix), floor.Epoch)
		}
	}
	return nil
}

// namedHosts returns the hosts that the record of an instance names, or none if it has
// no record. It first checks the record against the epoch of the instance's name.
func namedHosts(v raftstore.View, uid types.UID) ([]string, error) {
	rec, ok := v.Get(instanceKey(uid))
	if !ok {
		return nil, nil
	}
	in, err := decodeValue[Instance](rec)
	if err != nil {
		return nil, err
	}
	if in.UID != uid || in.Host == "" {
		return nil, fmt.Errorf("record of instance %s names instance %q on host %q", uid, in.UID, in.Host)
	}
	rec, ok = v.Get(epochKey(in.Namespace, in.Name))
	if !ok {
		return nil, fmt.Errorf("instance %s/%s has no epoch", in.Namespace, in.Name)
	}
	epoch, err := decodeValue[Epoch](rec)
	if err != nil {
		return nil, err
	}
	if epoch.UID != uid || epoch.Epoch != in.Epoch {
		return nil, fmt.Errorf("instance %s/%s has epoch %d of %s, its claim says %d of %s",
			in.Namespace, in.Name, epoch.Epoch, epoch.UID, in.Epoch, uid)
	}
	return in.Hosts(), nil
}

// strayEntry finds an entry of the instance on a host that is not in hosts. If the
// transaction required that the instance had no record before, it had no entries
// either, because this rule held; then only the transaction's own writes are checked.
func strayEntry(v raftstore.View, t *raftstore.Txn, uid types.UID, hosts []string) (string, bool) {
	check := func(host string) bool {
		_, has := v.Get(hostKey(host, uid))
		return has && !slices.Contains(hosts, host)
	}
	suffix := "/" + string(uid)
	for _, op := range t.Ops {
		if rest, ok := strings.CutPrefix(op.Key, hostPrefix); ok && strings.HasSuffix(rest, suffix) {
			if host := strings.TrimSuffix(rest, suffix); check(host) {
				return host, true
			}
		}
	}
	if slices.Contains(t.If, raftstore.Condition{Key: instanceKey(uid)}) {
		return "", false
	}
	var stray string
	v.Ascend(capacityPrefix, func(rec raftstore.Record) bool {
		if host := strings.TrimPrefix(rec.Key, capacityPrefix); check(host) {
			stray = host
		}
		return stray == ""
	})
	return stray, stray != ""
}

// checkVolumeOnce requires that a volume that is not shared has at most one holder, and
// that every holder is an instance with a claim.
func checkVolumeOnce(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	var args volumeArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	for _, key := range args.Keys {
		rec, ok := v.Get(key)
		if !ok {
			continue
		}
		vol, err := decodeValue[Volume](rec)
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
func holderName(v raftstore.View, holders []types.UID) string {
	name, since := "instance "+string(holders[0]), uint64(0)
	for _, uid := range holders {
		rec, ok := v.Get(instanceKey(uid))
		if !ok || since != 0 && rec.CreateRevision >= since {
			continue
		}
		if in, err := decodeValue[Instance](rec); err == nil {
			name, since = "instance "+in.Key().String(), rec.CreateRevision
		}
	}
	return name
}

// checkMigrationSlots requires that no more migrations run than the arguments allow, in
// total and from one source, and that no instance has two migrations at once.
func checkMigrationSlots(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	var args slotArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	total, bySource, byVMI := 0, map[string]int{}, map[types.UID]int{}
	var err error
	v.Ascend(migrationPrefix, func(rec raftstore.Record) bool {
		var m Migration
		if m, err = decodeValue[Migration](rec); err != nil {
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
