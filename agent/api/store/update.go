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

	"virtmesh/raftstore"
)

// state is an object as it was when an update or deletion started.
type state struct {
	obj  runtime.Object
	data []byte
	rev  uint64 // 0: the key does not exist
	// confirmed says that a linearizable read, or the store's refusal of a write,
	// vouches for the state. Nothing negative is reported from any other.
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

func (s *Store) newChange(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, suggestion runtime.Object) (*change, error) {
	key, err := storage.PrepareKey(s.prefix+"/", key, false)
	if err != nil {
		return nil, err
	}
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return nil, fmt.Errorf("change %s into %T: %w", key, out, err)
	}
	c := &change{store: s, key: key, typ: v, ignoreNotFound: ignoreNotFound}
	if suggestion != nil {
		c.cur, err = c.suggested(suggestion)
		return c, err
	}
	if err := c.read(ctx, raftstore.Local); err == nil && c.cur.rev != 0 {
		return c, nil
	}
	return c, c.read(ctx, raftstore.Linearizable)
}

// suggested makes a state of an object that the caller believes to be current.
func (c *change) suggested(obj runtime.Object) (*state, error) {
	rev, err := c.store.versioner.ObjectResourceVersion(obj)
	if err != nil {
		return nil, fmt.Errorf("change %s: %w", c.key, err)
	}
	if err := c.store.versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, fmt.Errorf("prepare %s for storage: %w", c.key, err)
	}
	data, err := runtime.Encode(c.store.codec, obj)
	if err != nil {
		return nil, err
	}
	if err := c.store.versioner.UpdateObject(obj, rev); err != nil {
		return nil, fmt.Errorf("change %s: %w", c.key, err)
	}
	return &state{obj: obj, data: data, rev: rev}, nil
}

// read replaces the current state by what the store holds.
func (c *change) read(ctx context.Context, how raftstore.Consistency) error {
	rec, rev, err := c.store.get(ctx, c.key, raftstore.ReadOptions{Consistency: how})
	switch {
	case errors.Is(err, raftstore.ErrNotFound):
		return c.set(nil, how == raftstore.Linearizable)
	case err != nil:
		return readError(err, 0, rev)
	}
	return c.set(&rec, how == raftstore.Linearizable)
}

// set makes rec, nil for none, the current state.
func (c *change) set(rec *raftstore.Record, confirmed bool) error {
	st := &state{obj: newLike(c.typ), confirmed: confirmed}
	c.cur = st
	if rec == nil {
		if !c.ignoreNotFound && confirmed {
			return storage.NewKeyNotFoundError(c.key, 0)
		}
		return nil
	}
	st.data, st.rev = rec.Value, rec.ModRevision
	return c.store.decode(rec.Value, st.obj, rec.ModRevision)
}

// confirm decides about an error that came of the current state: it is final
// when the state is vouched for and unchanged, else the state is read anew and
// nil says to try again.
func (c *change) confirm(ctx context.Context, cause error) error {
	if c.cur.confirmed {
		return cause
	}
	was := c.cur.rev
	if err := c.read(ctx, raftstore.Linearizable); err != nil {
		return err
	}
	if c.cur.rev == was {
		return cause
	}
	return nil
}

// lost takes over what the store holds after it refused a write, and returns
// any other error.
func (c *change) lost(err error) error {
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return c.set(conflict.Current, true)
	}
	return err
}

// GuaranteedUpdate implements storage.Interface. The time to live is not
// honoured.
func (s *Store) GuaranteedUpdate(ctx context.Context, key string, dest runtime.Object, ignoreNotFound bool,
	pre *storage.Preconditions, try storage.UpdateFunc, suggestion runtime.Object) error {
	c, err := s.newChange(ctx, key, dest, ignoreNotFound, suggestion)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		data, err := c.attempt(pre, try)
		if err != nil {
			if err := c.confirm(ctx, err); err != nil {
				return err
			}
			continue
		}
		if bytes.Equal(data, c.cur.data) {
			if done, err := c.unchanged(ctx, data, dest); done || err != nil {
				return err
			}
			continue
		}
		rev, err := s.put(ctx, c.key, data, c.cur.rev)
		if err == nil {
			return s.decode(data, dest, rev)
		}
		if err := c.lost(err); err != nil {
			return err
		}
	}
	return storage.NewTimeoutError(c.key, "the update did not finish in time")
}

// attempt runs the caller's function on the current state and encodes what it
// wants stored.
func (c *change) attempt(pre *storage.Preconditions, try storage.UpdateFunc) ([]byte, error) {
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

// unchanged ends an update that wants what is stored already without a write,
// once it is sure that it is stored.
func (c *change) unchanged(ctx context.Context, data []byte, dest runtime.Object) (bool, error) {
	if !c.cur.confirmed {
		if err := c.read(ctx, raftstore.Linearizable); err != nil {
			return false, err
		}
		if !bytes.Equal(data, c.cur.data) {
			return false, nil
		}
	}
	return true, c.store.decode(c.cur.data, dest, c.cur.rev)
}

// Delete implements storage.Interface.
func (s *Store) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions,
	validate storage.ValidateObjectFunc, suggestion runtime.Object, _ storage.DeleteOptions) error {
	c, err := s.newChange(ctx, key, out, false, suggestion)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		err := pre.Check(c.key, c.cur.obj)
		if err == nil {
			err = validate(ctx, c.cur.obj)
		}
		if err != nil {
			if err := c.confirm(ctx, err); err != nil {
				return err
			}
			continue
		}
		rev, err := s.remove(ctx, c.key, c.cur.rev)
		if err == nil {
			return s.decode(c.cur.data, out, rev)
		}
		if err := c.lost(err); err != nil {
			return err
		}
	}
	return storage.NewTimeoutError(c.key, "the deletion did not finish in time")
}
