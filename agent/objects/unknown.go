package objects

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"virtmesh/agent/skew"
	"virtmesh/raftstore"
)

// form says how this version reads and writes the value of a record. The zero form is
// that of a value which is written as it is: it replaces nothing, or nothing that this
// version does not know.
type form struct {
	// known returns what this version knows of a stored value: decoded and encoded again.
	known func(stored []byte) ([]byte, error)
	// typ is what the value is decoded into.
	typ reflect.Type
	// before is what this version knows of the value that is replaced; nil if it has not
	// encoded that yet. A stored value that equals it needs no decoding.
	before []byte
}

// formOf returns the form of objects of a kind.
func formOf(kind *Kind, before []byte) form {
	return form{known: CodecOf(kind).KnownOf, typ: reflect.TypeOf(kind.Object), before: before}
}

// KnownOf returns what this version knows of a stored value: decoded and encoded again.
func (c Codec) KnownOf(stored []byte) ([]byte, error) {
	o := c.kind.New()
	if err := c.Decode(stored, o); err != nil {
		return nil, err
	}
	return c.Encode(o)
}

// PutValue writes v as JSON, a record that is not an object. Fields of a record that it
// replaces which this version's T does not have stay. Like Put it has no condition of its
// own.
func PutValue[T any](t *Tx, storeKey string, v T) {
	b, err := json.Marshal(v)
	if err != nil {
		t.fail(fmt.Errorf("encode %s: %w", storeKey, err))
		return
	}
	t.addOp(raftstore.Op{Key: storeKey, Value: b}, form{known: skew.KnownOf[T], typ: reflect.TypeFor[T]()})
}

// keepUnknown returns the operations with what the records that they replace hold and
// this version does not know.
func (t *Tx) keepUnknown(ctx context.Context, s Store) ([]raftstore.Op, error) {
	ops := slices.Clone(t.ops)
	for i := range ops {
		value, err := t.keepInValue(ctx, s, ops[i], t.forms[i])
		if err != nil {
			return nil, fmt.Errorf("keep what newer versions wrote to %s: %w", ops[i].Key, err)
		}
		ops[i].Value = value
	}
	return ops, nil
}

// keepInValue returns the value to store by one operation. It reads the record from the
// local replica, which has it if any host has read it at the required revision. If the
// record is another one by now, the store refuses the transaction.
func (t *Tx) keepInValue(ctx context.Context, s Store, op raftstore.Op, f form) ([]byte, error) {
	revision, required := t.conds[op.Key]
	if f.known == nil || required && revision == 0 {
		return op.Value, nil
	}
	rec, _, err := s.Get(ctx, op.Key, raftstore.ReadOptions{Consistency: raftstore.Local, MinRevision: revision})
	switch {
	case errors.Is(err, raftstore.ErrNotFound), errors.Is(err, raftstore.ErrFutureRevision):
		return op.Value, nil
	case err != nil:
		return nil, err
	case required && rec.ModRevision != revision, bytes.Equal(rec.Value, f.before):
		return op.Value, nil
	}
	known, err := f.known(rec.Value)
	if err != nil {
		return nil, err
	}
	return skew.KeepUnknown(f.typ, rec.Value, known, op.Value)
}
