package claims

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
)

// Place adds the claim of an instance that runs nowhere yet. last is the last
// epoch under its name; an instance that held it before must have released
// its claim. It returns the claim as it will be stored, without revision.
func Place(tx *objects.Tx, in Instance, last Epoch) Instance {
	in.Epoch = last.next()
	in.Target = ""
	in.Since = time.Now().UTC().Truncate(time.Second)
	tx.Require(instanceKey(in.UID), 0)
	if last.UID != "" && last.UID != in.UID {
		tx.Require(instanceKey(last.UID), 0)
	}
	putInstance(tx, in, in.Host)
	putEpoch(tx, in, last)
	return in
}

// Reserve makes room for the instance on a host it will migrate to.
func Reserve(tx *objects.Tx, in Instance, target string) Instance {
	requireStored(tx, in)
	in.Target = target
	putInstance(tx, in, target)
	return in
}

// CancelReservation gives up the room on the migration's target.
func CancelReservation(tx *objects.Tx, in Instance) Instance {
	requireStored(tx, in)
	if in.Target != "" && in.Target != in.Host {
		tx.Remove(hostKey(in.Target, in.UID))
	}
	in.Target = ""
	putInstance(tx, in)
	return in
}

// Switch makes the target of a migration the host of the instance, with a new
// epoch, and gives up the claim on the source.
func Switch(tx *objects.Tx, in Instance, last Epoch) Instance {
	requireStored(tx, in)
	if in.Target == "" {
		tx.Fail(fmt.Errorf("instance %s has no migration target to switch to", in.Key()))
		return in
	}
	if in.Target != in.Host {
		tx.Remove(hostKey(in.Host, in.UID))
	}
	in.Host, in.Target = in.Target, ""
	in.Epoch = last.next()
	in.Since = time.Now().UTC().Truncate(time.Second)
	putInstance(tx, in, in.Host)
	putEpoch(tx, in, last)
	return in
}

// Release gives up the claims of an instance on its hosts. Its epoch stays, so
// that who takes over under the same name gets a higher one.
func Release(tx *objects.Tx, in Instance) {
	requireStored(tx, in)
	tx.Remove(instanceKey(in.UID))
	for _, host := range in.Hosts() {
		tx.Remove(hostKey(host, in.UID))
	}
	tx.Demand(demandVMIOnce(in.UID))
}

// ForgetEpochs removes the records of names under which nothing runs, and
// raises the floor, so that who comes back to such a name gets a higher epoch.
func ForgetEpochs(tx *objects.Tx, floor Floor, forgotten map[objects.Key]Epoch) {
	raised := floor.Epoch
	for key, last := range forgotten {
		tx.Require(epochKey(key.Namespace, key.Name), last.Revision)
		tx.Require(instanceKey(last.UID), 0)
		tx.Remove(epochKey(key.Namespace, key.Name))
		raised = max(raised, last.Epoch)
	}
	if raised == floor.Epoch {
		return
	}
	tx.Require(floorKey, floor.Revision)
	tx.Put(floorKey, encode(Floor{Epoch: raised}))
}

// Publish sets the capacity of a host. It does not touch the claims on it: if
// they are more now, nothing is added until they are less.
func Publish(tx *objects.Tx, c Capacity) {
	tx.Require(capacityKey(c.Host), c.Revision)
	tx.Put(capacityKey(c.Host), encode(c))
}

// Withdraw removes the capacity of a host that is leaving for good.
func Withdraw(tx *objects.Tx, c Capacity) {
	tx.Require(capacityKey(c.Host), c.Revision)
	tx.Remove(capacityKey(c.Host))
}

// Attach adds the instance to the holders of a volume. vol is what is stored,
// or a new record with Revision zero.
func Attach(tx *objects.Tx, vol Volume, uid types.UID) Volume {
	key := volumeKey(vol.Namespace, vol.Claim)
	tx.Require(key, vol.Revision)
	if !slices.Contains(vol.Holders, uid) {
		vol.Holders = append(slices.Clone(vol.Holders), uid)
		slices.Sort(vol.Holders)
	}
	tx.Put(key, encode(vol))
	tx.Demand(demand(RuleVolumeOnce, volumeArgs{[]string{key}}))
	return vol
}

// Detach removes the instance from the holders of a volume, and the record
// with the last holder. An instance that does not hold it changes nothing.
func Detach(tx *objects.Tx, vol Volume, uid types.UID) {
	if !slices.Contains(vol.Holders, uid) {
		return
	}
	key := volumeKey(vol.Namespace, vol.Claim)
	tx.Require(key, vol.Revision)
	vol.Holders = slices.DeleteFunc(slices.Clone(vol.Holders), func(u types.UID) bool { return u == uid })
	if len(vol.Holders) == 0 {
		tx.Remove(key)
		return
	}
	tx.Put(key, encode(vol))
}

// Limits bound the migrations that run at the same time.
type Limits struct {
	// Total is for the whole mesh, PerSource for the outgoing ones of a host.
	Total, PerSource int
}

// TakeSlot records a running migration, within the limits.
func TakeSlot(tx *objects.Tx, m Migration, limits Limits) {
	tx.Require(migrationKey(m.UID), 0)
	tx.Put(migrationKey(m.UID), encode(m))
	tx.Demand(demand(RuleMigrationSlots, slotArgs(limits)))
}

// FreeSlot removes a migration that has ended.
func FreeSlot(tx *objects.Tx, m Migration) {
	tx.Require(migrationKey(m.UID), m.Revision)
	tx.Remove(migrationKey(m.UID))
}

// putInstance writes the record and its entries on hosts, which must have room
// for it.
func putInstance(tx *objects.Tx, in Instance, hosts ...string) {
	putRecords(tx, in, hosts)
	if len(hosts) > 0 {
		tx.Demand(demand(RuleHostCapacity, hostArgs{hosts}))
	}
}

func putRecords(tx *objects.Tx, in Instance, hosts []string) {
	tx.Put(instanceKey(in.UID), encode(in))
	entry := Entry{Namespace: in.Namespace, Name: in.Name, Epoch: in.Epoch, Resources: in.Resources}.encode()
	for _, host := range hosts {
		tx.Put(hostKey(host, in.UID), entry)
	}
	tx.Demand(demandVMIOnce(in.UID))
}

// putEpoch writes the epoch of the instance. It follows the instance's record,
// so that who has heard of the epoch has heard of the claim (see Sight).
func putEpoch(tx *objects.Tx, in Instance, last Epoch) {
	key := epochKey(in.Namespace, in.Name)
	tx.Require(key, last.Revision)
	if last.Revision == 0 {
		tx.Require(floorKey, last.floor.Revision)
	}
	tx.Put(key, encode(Epoch{Epoch: in.Epoch, UID: in.UID}))
}

func requireStored(tx *objects.Tx, in Instance) {
	if in.Revision == 0 {
		tx.Fail(fmt.Errorf("claim of instance %s was not read from the store", in.Key()))
		return
	}
	tx.Require(instanceKey(in.UID), in.Revision)
}

// RequireUnclaimed makes the transaction fail if the instance has a claim: for
// who acts on an instance in place of the host it does not have.
func RequireUnclaimed(tx *objects.Tx, uid types.UID) { tx.Require(instanceKey(uid), 0) }

// RequireHeld makes the transaction fail unless the claim is as it was read: for a
// host that speaks for an instance because it holds the claim.
func RequireHeld(tx *objects.Tx, in Instance) { requireStored(tx, in) }
