package claims

import (
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// Prefix is the prefix of all keys of claims.
const Prefix = "/claims/"

const (
	instancePrefix  = Prefix + "vmi/"
	hostPrefix      = Prefix + "host/"
	epochPrefix     = Prefix + "epoch/"
	capacityPrefix  = Prefix + "capacity/"
	volumePrefix    = Prefix + "volume/"
	migrationPrefix = Prefix + "migration/"

	guardPrefix = Prefix + "guard/"

	quarantinePrefix = Prefix + "quarantine/"

	floorKey  = Prefix + "floor"
	limitsKey = Prefix + "limits"
)

// Instance is the claim of an instance: where it runs and what it needs there.
type Instance struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	// Host is the host that runs the instance.
	Host string `json:"host"`
	// Target, if set, is the host that the instance is migrating to, where room is
	// reserved for it.
	Target string `json:"target,omitempty"`
	// Epoch is the fencing epoch of Host. It increases whenever another host, or another
	// instance of the same name, takes over.
	Epoch uint64 `json:"epoch"`
	// TargetEpoch is the fencing epoch of Target. It becomes Epoch when Target becomes
	// Host.
	TargetEpoch uint64 `json:"targetEpoch,omitempty"`
	// Resources is what the instance uses on every host where it has a claim.
	Resources machine.Resources `json:"resources"`
	// Since is when the instance was placed on or moved to Host.
	Since time.Time `json:"since"`

	// Revision is the revision of the stored record, zero if it is not stored.
	Revision uint64 `json:"-"`
}

// Key names the instance's object.
func (i Instance) Key() objects.Key { return objects.Key{Namespace: i.Namespace, Name: i.Name} }

// Hosts returns the hosts the instance holds claims on.
func (i Instance) Hosts() []string {
	if i.Target == "" || i.Target == i.Host {
		return []string{i.Host}
	}
	return []string{i.Host, i.Target}
}

// Epoch is the last epoch used under one name.
type Epoch struct {
	Epoch uint64    `json:"epoch"`
	UID   types.UID `json:"uid"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`

	// floor is the floor at the time of the read; the next epoch is above it, too.
	floor Floor
}

// nextEpoch returns the epoch for the next instance or host that takes over.
func (e Epoch) nextEpoch() uint64 {
	return max(e.Epoch, e.floor.Epoch) + 1
}

// Floor is the highest epoch of all names whose records were deleted, or the one that a
// recovery has raised it to. Every new epoch is above the floor, so no epoch is used
// twice.
type Floor struct {
	Epoch uint64 `json:"epoch"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`
}

// Capacity is how much may be claimed on a host. The host's agent publishes it.
type Capacity struct {
	Host        string            `json:"host"`
	Allocatable machine.Resources `json:"allocatable"`
	// Disks are the file systems on which guests have disks; nil until the mesh counts them.
	Disks []Disk `json:"disks,omitempty"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`
}

// Volume says which instances have a volume attached.
type Volume struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Shared is true if several instances may attach the volume at the same time.
	Shared bool `json:"shared,omitempty"`
	// Holders are the uids of the instances, sorted.
	Holders []types.UID `json:"holders"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`
}

// Migration is one running migration.
type Migration struct {
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	VMI       types.UID `json:"vmi"`
	Source    string    `json:"source"`
	Target    string    `json:"target"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`
}

// Store keys.
func instanceKey(uid types.UID) string          { return instancePrefix + string(uid) }
func hostKey(host string, uid types.UID) string { return hostPrefix + host + "/" + string(uid) }
func epochKey(namespace, name string) string    { return epochPrefix + namespace + "/" + name }
func capacityKey(host string) string            { return capacityPrefix + host }
func volumeKey(namespace, claim string) string  { return volumePrefix + namespace + "/" + claim }
func migrationKey(uid types.UID) string         { return migrationPrefix + string(uid) }

// decodeValue reads the JSON value of a record.
func decodeValue[T any](rec raftstore.Record) (T, error) {
	var v T
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", rec.Key, err)
	}
	return v, nil
}

// encodeValue returns the JSON of v. It cannot fail for the types above, which hold
// nothing that JSON cannot represent.
func encodeValue(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("claims: encode %T: %v", v, err))
	}
	return b
}
