package claims

import (
	"context"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Class is a space of names in which each may be held by one object.
type Class string

// The classes in use.
const (
	// ClassMAC holds hardware addresses of interfaces.
	ClassMAC Class = "mac"
	// ClassIP holds addresses of guests.
	ClassIP Class = "ip"
)

// Unique says which object holds a name.
type Unique struct {
	Class Class  `json:"class"`
	Name  string `json:"name"`
	// Namespace, Owner and UID name the object that holds it.
	Namespace string    `json:"namespace"`
	Owner     string    `json:"owner"`
	UID       types.UID `json:"uid"`

	// Revision is the record's, zero if it is not stored.
	Revision uint64 `json:"-"`
}

// Hold takes a name that nobody holds. If someone does, the transaction fails
// with AlreadyExists.
func Hold(tx *objects.Tx, u Unique) {
	key := uniqueKey(u.Class, u.Name)
	tx.Require(key, 0)
	tx.Put(key, encode(u))
}

// Drop gives a name back.
func Drop(tx *objects.Tx, u Unique) {
	key := uniqueKey(u.Class, u.Name)
	tx.Require(key, u.Revision)
	tx.Remove(key)
}

// Holder reads who holds a name. ok is false if nobody does.
func Holder(ctx context.Context, s objects.Store, class Class, name string, opts raftstore.ReadOptions) (u Unique, ok bool, err error) {
	rec, ok, err := get(ctx, s, uniqueKey(class, name), opts)
	if !ok || err != nil {
		return Unique{}, false, err
	}
	u, err = decode[Unique](rec)
	u.Revision = rec.ModRevision
	return u, err == nil, err
}

// Held lists the names of a class that are held, in order.
func Held(ctx context.Context, s objects.Store, class Class, opts raftstore.ReadOptions) ([]Unique, error) {
	var all []Unique
	_, err := objects.ListRecords(ctx, s, uniqueKey(class, ""), opts, func(rec raftstore.Record) error {
		u, err := decode[Unique](rec)
		u.Revision = rec.ModRevision
		all = append(all, u)
		return err
	})
	return all, err
}

func uniqueKey(class Class, name string) string {
	return Prefix + "unique/" + string(class) + "/" + name
}
