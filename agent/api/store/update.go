package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/skew"
	"virtmesh/raftstore"
)

// state is the state of an object from which an update or deletion starts.
type state struct {
	obj  runtime.Object
	data []byte
	// known is what this version knows of data: decoded and encoded again. It is what an
	// update's result is compared with.
	known []byte
	rev   uint64 // 0: the key does not exist
	// confirmed is true if the state comes from a linearizable read, or from the
	// store's refusal of a write. An error that results from an unconfirmed state is
	// not reported before the state is confirmed.
	confirmed bool
}

// change is one running update or deletion.
type change struct {
	store          *Store
	key            string
	typ            reflect.Value
	ignoreNotFound bool
	cur            *state
}

func (s *Store) newChange(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool) (*change, error) {
	key, err := storage.PrepareKey(s.prefix+"/", key, false)
	if err != nil {
		return nil, err
	}
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return nil, fmt.Errorf("change %s into %T: %w", key, out, err)
	}
	c := &change{store: s, key: key, typ: v, ignoreNotFound: ignoreNotFound}
	if err := c.readState(ctx, raftstore.Local); err == nil && c.cur.rev != 0 {
		return c, nil
	}
	return c, c.readState(ctx, raftstore.Linearizable)
}

// readState replaces the current state with what the store holds.
func (c *change) readState(ctx context.Context, how raftstore.Consistency) error {
	rec, rev, err := c.store.getRecord(ctx, c.key, raftstore.ReadOptions{Consistency: how})
	switch {
	case errors.Is(err, raftstore.ErrNotFound):
		return c.setState(nil, how == raftstore.Linearizable)
	case err != nil:
		return c.store.readError(err, 0, rev)
	}
	return c.setState(&rec, how == raftstore.Linearizable)
}

// setState makes rec, nil for none, the current state.
func (c *change) setState(rec *raftstore.Record, confirmed bool) error {
	st := &state{obj: newLike(c.typ), confirmed: confirmed}
	c.cur = st
	if rec == nil {
		if !c.ignoreNotFound && confirmed {
			return storage.NewKeyNotFoundError(c.key, 0)
		}
		return nil
	}
	st.data, st.rev = rec.Value, rec.ModRevision
	if _, _, err := c.store.codec.Decode(rec.Value, nil, st.obj); err != nil {
		return err
	}
	known, err := runtime.Encode(c.store.codec, st.obj)
	if err != nil {
		return err
	}
	st.known = known
	return c.store.versioner.UpdateObject(st.obj, rec.ModRevision)
}

// valueOf returns the value to store for an object whose encoding is data: with what the
// present one has that this version does not know.
func (s *state) valueOf(data []byte) ([]byte, error) {
	if s.rev == 0 {
		return data, nil
	}
	return skew.KeepUnknown(reflect.TypeOf(s.obj), s.data, s.known, data)
}

// confirmError decides whether an error that results from the current state is final.
// It is final if the state is confirmed, or unchanged after a linearizable read.
// Otherwise confirmError returns nil, and the caller tries again with the new state.
func (c *change) confirmError(ctx context.Context, cause error) error {
	if c.cur.confirmed {
		return cause
	}
	was := c.cur.rev
	if err := c.readState(ctx, raftstore.Linearizable); err != nil {
		return err
	}
	if c.cur.rev == was {
		return cause
	}
	return nil
}

// adoptConflict makes the state that refused a write the current one. It returns any
// other error unchanged.
func (c *change) adoptConflict(err error) error {
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return c.setState(conflict.Current, true)
	}
	return err
}

// GuaranteedUpdate implements storage.Interface. The time to live is not
// honoured. A suggestion is not used: it is an object, which does not have what this
// version does not know of the stored one.
func (s *Store) GuaranteedUpdate(ctx context.Context, key string, dest runtime.Object, ignoreNotFound bool,
	pre *storage.Preconditions, try storage.UpdateFunc, _ runtime.Object) error {
	c, err := s.newChange(ctx, key, dest, ignoreNotFound)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		data, err := c.attemptUpdate(pre, try)
		if err != nil {
			if err := c.confirmError(ctx, err); err != nil {
				return err
			}
			continue
		}
		if bytes.Equal(data, c.cur.known) {
			if done, err := c.finishUnchanged(ctx, data, dest); done || err != nil {
				return err
			}
			continue
		}
		value, err := c.cur.valueOf(data)
		if err != nil {
			return fmt.Errorf("update %s: %w", c.key, err)
		}
		rev, err := s.putRecord(ctx, c.key, value, c.cur.rev)
		if err == nil {
			return s.decodeObject(data, dest, rev)
		}
		if err := c.adoptConflict(err); err != nil {
			return err
		}
	}
	return storage.NewTimeoutError(c.key, "the update did not finish in time")
}

// attemptUpdate runs the caller's function on the current state and encodes the object
// that it returns.
func (c *change) attemptUpdate(pre *storage.Preconditions, try storage.UpdateFunc) ([]byte, error) {
	if err := pre.Check(c.key, c.cur.obj); err != nil {
		return nil, err
	}
	want, _, err := try(c.cur.obj, storage.ResponseMeta{ResourceVersion: c.cur.rev})
	if err != nil {
		return nil, err
	}
	if err := c.store.versioner.PrepareObjectForStorage(want); err != nil {
		return nil, fmt.Errorf("prepare %s for storage: %w", c.key, err)
	}
	return runtime.Encode(c.store.codec, want)
}

// finishUnchanged ends, without a write, an update whose result is already stored, once
// a linearizable read has confirmed that it is.
func (c *change) finishUnchanged(ctx context.Context, data []byte, dest runtime.Object) (bool, error) {
	if !c.cur.confirmed {
		if err := c.readState(ctx, raftstore.Linearizable); err != nil {
			return false, err
		}
		if !bytes.Equal(data, c.cur.known) {
			return false, nil
		}
	}
	return true, c.store.decodeObject(c.cur.data, dest, c.cur.rev)
}

// Delete implements storage.Interface.
func (s *Store) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	c, err := s.newChange(ctx, key, out, false)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		err := pre.Check(c.key, c.cur.obj)
		if err == nil {
			err = validate(ctx, c.cur.obj)
		}
		if err != nil {
			if err := c.confirmError(ctx, err); err != nil {
				return err
			}
			continue
		}
		rev, err := s.deleteRecord(ctx, c.key, c.cur.rev)
		if err == nil {
			return s.decodeObject(c.cur.data, out, rev)
		}
		if err := c.adoptConflict(err); err != nil {
			return err
		}
	}
	return storage.NewTimeoutError(c.key, "the deletion did not finish in time")
}
