package claims

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
)

// Place adds the claim of an instance that has no host yet. last is the last epoch
// under its name. If another instance of that name was claimed before, it must have
// released its claim. Place returns the claim as it will be stored, without its
// revision.
func Place(tx *objects.Tx, in Instance, last Epoch) Instance {
	in.Epoch = last.nextEpoch()
	in.Target, in.TargetEpoch = "", 0
	in.Since = tx.Clock.Now().UTC().Truncate(time.Second)
	tx.Require(instanceKey(in.UID), 0)
	if last.UID != "" && last.UID != in.UID {
		tx.Require(instanceKey(last.UID), 0)
	}
	putInstance(tx, in)
	putEntry(tx, in, in.Host, in.Epoch)
	putEpoch(tx, in, last, in.Epoch)
	return in
}

// Reserve claims room for the instance on the target host of its migration, and gives the
// target the next epoch of the name: the guest is started there under it before the source
// has let go. last is the last epoch under the name. Depend may follow, as after Place.
func Reserve(tx *objects.Tx, in Instance, target string, last Epoch) Instance {
	requireStored(tx, in)
	if target == in.Host {
		tx.Fail(fmt.Errorf("instance %s runs on host %s, which cannot be its migration target", in.Key(), target))
		return in
	}
	in.Target, in.TargetEpoch = target, last.nextEpoch()
	putInstance(tx, in)
	putEntry(tx, in, target, in.TargetEpoch)
	putEpoch(tx, in, last, in.TargetEpoch)
	return in
}

// CancelReservation releases the room on the migration's target. The target's epoch is not
// given out again.
func CancelReservation(tx *objects.Tx, in Instance) Instance {
	requireStored(tx, in)
	if in.Target != "" {
		tx.Remove(hostKey(in.Target, in.UID))
	}
	in.Target, in.TargetEpoch = "", 0
	putInstance(tx, in)
	return in
}

// Switch makes the migration's target the host of the instance, under the epoch that it
// got with the reservation, and releases the claim on the source. It demands no capacity,
// since the room is claimed already: a target that has less to offer than before must not
// refuse a guest that has arrived.
func Switch(tx *objects.Tx, in Instance) Instance {
	requireStored(tx, in)
	if in.Target == "" {
		tx.Fail(fmt.Errorf("instance %s has no migration target to switch to", in.Key()))
		return in
	}
	tx.Remove(hostKey(in.Host, in.UID))
	in.Host, in.Epoch = in.Target, in.TargetEpoch
	in.Target, in.TargetEpoch = "", 0
	in.Since = tx.Clock.Now().UTC().Truncate(time.Second)
	putInstance(tx, in)
	return in
}

// Release releases the claims of an instance on its hosts. The record of its epoch
// stays, so that the next instance under the name gets a higher epoch.
func Release(tx *objects.Tx, in Instance) {
	requireStored(tx, in)
	tx.Remove(instanceKey(in.UID))
	for _, host := range in.Hosts() {
		tx.Remove(hostKey(host, in.UID))
	}
	demand(tx, vmiOnce(), in.UID)
}

// ForgetEpochs deletes the epoch records of names under which nothing runs, and raises
// the floor, so that a later instance under such a name gets a higher epoch.
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
	objects.PutValue(tx, floorKey, Floor{Epoch: raised})
}

// Publish sets the capacity of a host. It does not change the claims on the host: if
// they exceed the new capacity, further claims are refused until they fit.
func Publish(tx *objects.Tx, c Capacity) {
	tx.Require(capacityKey(c.Host), c.Revision)
	objects.PutValue(tx, capacityKey(c.Host), c)
}

// Withdraw removes the capacity of a host that leaves for good.
func Withdraw(tx *objects.Tx, c Capacity) {
	tx.Require(capacityKey(c.Host), c.Revision)
	tx.Remove(capacityKey(c.Host))
}

// Attach adds the instance to the holders of a volume. vol is the stored record, or a
// new one with Revision zero.
func Attach(tx *objects.Tx, vol Volume, uid types.UID) Volume {
	key := volumeKey(vol.Namespace, vol.Claim)
	tx.Require(key, vol.Revision)
	if !slices.Contains(vol.Holders, uid) {
		vol.Holders = append(slices.Clone(vol.Holders), uid)
		slices.Sort(vol.Holders)
	}
	objects.PutValue(tx, key, vol)
	demand(tx, volumeOnce(), key)
	return vol
}

// Detach removes the instance from the holders of a volume, and deletes the record with
// the last holder. It does nothing if the instance does not hold the volume.
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
	objects.PutValue(tx, key, vol)
}

// Limits bound the migrations that run at the same time. They are stored, so that every
// host that starts a migration is held to the same ones.
type Limits struct {
	// Total limits the migrations of the whole mesh, PerSource those from one host, and
	// PerTarget those to one host.
	Total     int `json:"total"`
	PerSource int `json:"perSource"`
	PerTarget int `json:"perTarget"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`
}

// SetLimits stores the limits on migrations. Migrations that run already go on.
func SetLimits(tx *objects.Tx, limits Limits) {
	tx.Require(limitsKey, limits.Revision)
	objects.PutValue(tx, limitsKey, limits)
}

// TakeSlot records a running migration. It is refused beyond the stored limits, and if
// none are stored.
func TakeSlot(tx *objects.Tx, m Migration) {
	tx.Require(migrationKey(m.UID), 0)
	objects.PutValue(tx, migrationKey(m.UID), m)
	demand(tx, migrationSlots(), struct{}{})
}

// FreeSlot removes a migration that has ended.
func FreeSlot(tx *objects.Tx, m Migration) {
	tx.Require(migrationKey(m.UID), m.Revision)
	tx.Remove(migrationKey(m.UID))
}

// putInstance writes the instance's record.
func putInstance(tx *objects.Tx, in Instance) {
	objects.PutValue(tx, instanceKey(in.UID), in)
	demand(tx, vmiOnce(), in.UID)
}

// putEntry writes the instance's entry on a host, which must have room for it.
func putEntry(tx *objects.Tx, in Instance, host string, epoch uint64) {
	entry := Entry{Namespace: in.Namespace, Name: in.Name, Epoch: epoch, Resources: in.Resources}
	tx.Put(hostKey(host, in.UID), entry.encodeText())
	demand(tx, hostCapacity(), host)
	if in.Resources.EphemeralBytes > 0 {
		demand(tx, poolCapacity(), host)
	}
}

// putEpoch writes the epoch that the instance takes under its name. It must come after the
// instance's record in the transaction, so that a watcher that has seen the epoch has also
// seen the claim (see Sight).
func putEpoch(tx *objects.Tx, in Instance, last Epoch, taken uint64) {
	key := epochKey(in.Namespace, in.Name)
	tx.Require(key, last.Revision)
	if last.Revision == 0 {
		tx.Require(floorKey, last.floor.Revision)
	}
	objects.PutValue(tx, key, Epoch{Epoch: taken, UID: in.UID})
}

func requireStored(tx *objects.Tx, in Instance) {
	if in.Revision == 0 {
		tx.Fail(fmt.Errorf("claim of instance %s was not read from the store", in.Key()))
		return
	}
	tx.Require(instanceKey(in.UID), in.Revision)
}

// RequireUnclaimed makes the transaction fail if the instance has a claim. It is for
// controllers that change an instance which has no host to do so.
func RequireUnclaimed(tx *objects.Tx, uid types.UID) { tx.Require(instanceKey(uid), 0) }

// RequireHeld makes the transaction fail unless the claim is still as it was read. It
// is for a host that changes an instance because it holds the claim on it.
func RequireHeld(tx *objects.Tx, in Instance) { requireStored(tx, in) }
