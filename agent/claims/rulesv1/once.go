package rulesv1

import (
	"fmt"
	"slices"
	"strings"

	"virtmesh/raftstore"
)

// checkVMIOnce requires that an instance has entries on exactly the hosts that its
// record names, and that the epoch record of its name is its own.
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
		last, err := decode[epoch](rec)
		if err != nil {
			return err
		}
		if last.Epoch <= lowest.Epoch {
			return fmt.Errorf("epoch %d of %s is not above %d, the highest that was forgotten",
				last.Epoch, strings.TrimPrefix(op.Key, epochPrefix), lowest.Epoch)
		}
	}
	return nil
}

// namedHosts returns the hosts that the record of an instance names, or none if it has
// no record. It first checks the record against the epoch of the instance's name.
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
	rec, ok = v.Get(epochKey(in.Namespace, in.Name))
	if !ok {
		return nil, fmt.Errorf("instance %s/%s has no epoch", in.Namespace, in.Name)
	}
	last, err := decode[epoch](rec)
	if err != nil {
		return nil, err
	}
	if last.UID != uid || last.Epoch != in.Epoch {
		return nil, fmt.Errorf("instance %s/%s has epoch %d of %s, its claim says %d of %s",
			in.Namespace, in.Name, last.Epoch, last.UID, in.Epoch, uid)
	}
	return in.hosts(), nil
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
