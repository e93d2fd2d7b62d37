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

// Prefix is what all keys of claims begin with.
const Prefix = "/claims/"

const (
	instancePrefix  = Prefix + "vmi/"
	hostPrefix      = Prefix + "host/"
	epochPrefix     = Prefix + "epoch/"
	capacityPrefix  = Prefix + "capacity/"
	volumePrefix    = Prefix + "volume/"
	migrationPrefix = Prefix + "migration/"

	guardPrefix = Prefix + "guard/"

	floorKey = Prefix + "floor"
)

// Instance says where an instance runs.
type Instance struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	// Host runs it.
	Host string `json:"host"`
	// Target, if set, is the host it is migrating to, where room is reserved.
	Target string `json:"target,omitempty"`
	// Epoch is the fencing epoch. It grows whenever another host, or another
	// instance of the same name, takes over.
	Epoch uint64 `json:"epoch"`
	// Resources is what it takes of every host it holds a claim on.
	Resources machine.Resources `json:"resources"`
	// Since is when it came to Host.
	Since time.Time `json:"since"`

	// Revision is the record's, zero if it is not stored.
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

	// Revision is the record's, zero if there is none.
	Revision uint64 `json:"-"`

	// floor is where a name without a record begins.
	floor Floor
}

// next returns the epoch of who takes over.
func (e Epoch) next() uint64 {
	if e.Revision == 0 {
		return e.floor.Epoch + 1
	}
	return e.Epoch + 1
}

// Floor is the highest epoch of all names whose records were forgotten. A name
// without a record begins above it, so that no epoch comes back.
type Floor struct {
	Epoch uint64 `json:"epoch"`

	// Revision is the record's, zero if there is none.
	Revision uint64 `json:"-"`
}

// Capacity is what may be claimed of a host. Its agent publishes it.
type Capacity struct {
	Host        string            `json:"host"`
	Allocatable machine.Resources `json:"allocatable"`

	// Revision is the record's, zero if there is none.
	Revision uint64 `json:"-"`
}

// Volume says which instances have a volume attached.
type Volume struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Shared volumes may be attached by several instances at once.
	Shared bool `json:"shared,omitempty"`
	// Holders are the uids of the instances, sorted.
	Holders []types.UID `json:"holders"`

	// Revision is the record's, zero if there is none.
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

	// Revision is the record's, zero if there is none.
	Revision uint64 `json:"-"`
}

// Store keys.
func instanceKey(uid types.UID) string           { return instancePrefix + string(uid) }
func hostKey(host string, uid types.UID) string  { return hostPrefix + host + "/" + string(uid) }
func epochKey(namespace, name string) string     { return epochPrefix + namespace + "/" + name }
func capacityKey(host string) string             { return capacityPrefix + host }
func volumeKey(namespace, claim string) string   { return volumePrefix + namespace + "/" + claim }
func migrationKey(uid types.UID) string          { return migrationPrefix + string(uid) }
func hostEntries(host string) (keyPrefix string) { return hostPrefix + host + "/" }

// decode reads the value of a record.
func decode[T any](rec raftstore.Record) (T, error) {
	var v T
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", rec.Key, err)
	}
	return v, nil
}

// encode cannot fail for the types above: they hold nothing that JSON lacks.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("claims: encode %T: %v", v, err))
	}
	return b
}
