package claims

import (
	"context"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Class is a set of names, such as MAC addresses, each of which at most one object may
// hold.
type Class string

// The classes. Nothing claims a name of them yet: each host chooses the addresses of its
// guests.
const (
	// ClassMAC is the class of the MAC addresses of interfaces.
	ClassMAC Class = "mac"
	// ClassIP is the class of the IP addresses of guests.
	ClassIP Class = "ip"
)

// Unique is the claim of one object on a name.
type Unique struct {
	Class Class  `json:"class"`
	Name  string `json:"name"`
	// Namespace, Owner and UID identify the object that holds the name.
	Namespace string    `json:"namespace"`
	Owner     string    `json:"owner"`
	UID       types.UID `json:"uid"`

	// Revision is the revision of the stored record, zero if it is not stored.
	Revision uint64 `json:"-"`
}

// Hold claims a name. If another object holds it, the transaction fails with
// AlreadyExists.
func Hold(tx *objects.Tx, u Unique) {
	key := uniqueKey(u.Class, u.Name)
	tx.Require(key, 0)
	objects.PutValue(tx, key, u)
}

// Drop releases a name.
func Drop(tx *objects.Tx, u Unique) {
	key := uniqueKey(u.Class, u.Name)
	tx.Require(key, u.Revision)
	tx.Remove(key)
}

// Holder returns the claim on a name. ok is false if no object holds the name.
func Holder(ctx context.Context, s objects.Store, class Class, name string, opts raftstore.ReadOptions) (u Unique, ok bool, err error) {
	rec, ok, err := getRecord(ctx, s, uniqueKey(class, name), opts)
	if !ok || err != nil {
		return Unique{}, false, err
	}
	u, err = decodeValue[Unique](rec)
	u.Revision = rec.ModRevision
	return u, err == nil, err
}

// Held lists the claims on names of a class, in order of the names.
func Held(ctx context.Context, s objects.Store, class Class, opts raftstore.ReadOptions) ([]Unique, error) {
	var all []Unique
	_, err := objects.ListRecords(ctx, s, uniqueKey(class, ""), opts, func(rec raftstore.Record) error {
		u, err := decodeValue[Unique](rec)
		u.Revision = rec.ModRevision
		all = append(all, u)
		return err
	})
	return all, err
}

func uniqueKey(class Class, name string) string {
	return Prefix + "unique/" + string(class) + "/" + name
}
