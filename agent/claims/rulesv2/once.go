package rulesv2

import (
	"fmt"
	"slices"
	"strings"

	"virtmesh/raftstore"
)

// checkVMIOnce requires that an instance has entries on exactly the hosts that its record
// names, that its epochs are those last given out under its name, and that the first epoch
// of a name is above the floor.
func checkVMIOnce(v raftstore.View, t *raftstore.Txn, raw []byte) error {
	args, err := decodeArgs[vmiArgs](raw)
	if err != nil {
		return err
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
	return checkFloor(v, t)
}

// namedHosts returns the hosts that the record of an instance names, or none if it has
// no record. It first checks the epochs in the record.
func namedHosts(v raftstore.View, uid string) ([]string, error) {
	rec, ok := v.Get(instanceKey(uid))
	if !ok {
		return nil, nil
	}
	in, err := decode[instance](rec)
	if err != nil {
		return nil, err
	}
	if in.UID != uid || in.Host == "" {
		return nil, fmt.Errorf("record of instance %s names instance %q on host %q", uid, in.UID, in.Host)
	}
	stored, ok := v.Get(epochKey(in.Namespace, in.Name))
	if !ok {
		return nil, fmt.Errorf("instance %s/%s has no epoch", in.Namespace, in.Name)
	}
	last, err := decode[epoch](stored)
	if err != nil {
		return nil, err
	}
	placed := rec.CreateRevision == rec.ModRevision
	if err := in.checkEpochs(last, placed); err != nil {
		return nil, err
	}
	return in.hosts(), nil
}

// checkEpochs compares the epochs of a claim with the last one under its name. A claim
// that is new has that one; so has a target. Without a target, the host's may be lower:
// the last one then went to a target that was given up.
func (i instance) checkEpochs(last epoch, placed bool) error {
	switch {
	case last.UID != i.UID || last.Epoch < i.Epoch || placed && last.Epoch != i.Epoch:
		return fmt.Errorf("instance %s/%s has epoch %d of %s, its claim says %d of %s", i.Namespace, i.Name, last.Epoch, last.UID, i.Epoch, i.UID)
	case i.Target == "" && i.TargetEpoch != 0:
		return fmt.Errorf("instance %s/%s has epoch %d for a target and no target", i.Namespace, i.Name, i.TargetEpoch)
	case i.Target == "":
		return nil
	case i.Target == i.Host:
		return fmt.Errorf("instance %s/%s migrates from host %s to the same host", i.Namespace, i.Name, i.Host)
	case i.TargetEpoch != last.Epoch || i.TargetEpoch <= i.Epoch:
		return fmt.Errorf("instance %s/%s has epoch %d for its target, want the last one, %d, above %d", i.Namespace, i.Name, i.TargetEpoch, last.Epoch, i.Epoch)
	}
	return nil
}

// strayEntry finds an entry of the instance on a host that is not in hosts. If the
// transaction required that the instance had no record before, it had no entries
// either, because this rule held; then only the transaction's own writes are checked.
func strayEntry(v raftstore.View, t *raftstore.Txn, uid string, hosts []string) (string, bool) {
	check := func(host string) bool {
		_, has := v.Get(hostKey(host, uid))
		return has && !slices.Contains(hosts, host)
	}
	suffix := "/" + uid
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

// checkFloor requires that a name which had no epoch record before gets an epoch above
// the floor, so that no epoch that the name had before its record was deleted is used
// again.
func checkFloor(v raftstore.View, t *raftstore.Txn) error {
	rec, ok := v.Get(floorKey)
	if !ok {
		return nil
	}
	lowest, err := decode[floor](rec)
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
		first, err := decode[epoch](rec)
		if err != nil {
			return err
		}
		if first.Epoch <= lowest.Epoch {
			return fmt.Errorf("epoch %d of %s is not above %d, the highest that was forgotten",
				first.Epoch, strings.TrimPrefix(op.Key, epochPrefix), lowest.Epoch)
		}
	}
	return nil
}
