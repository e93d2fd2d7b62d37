package claims

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// GetInstance reads the claim of an instance from the store. ok is false if it
// has none.
func GetInstance(ctx context.Context, s objects.Store, uid types.UID, opts raftstore.ReadOptions) (in Instance, ok bool, err error) {
	rec, ok, err := getRecord(ctx, s, instanceKey(uid), opts)
	if !ok || err != nil {
		return Instance{}, false, err
	}
	in, err = decodeValue[Instance](rec)
	in.Revision = rec.ModRevision
	return in, err == nil, err
}

// GetEpoch reads the last epoch under a name; Revision is zero if there is no record.
func GetEpoch(ctx context.Context, s objects.Store, key objects.Key, opts raftstore.ReadOptions) (Epoch, error) {
	rec, ok, err := getRecord(ctx, s, epochKey(key.Namespace, key.Name), opts)
	if err != nil {
		return Epoch{}, err
	}
	floor, err := GetFloor(ctx, s, opts)
	if !ok || err != nil {
		return Epoch{floor: floor}, err
	}
	e, err := decodeValue[Epoch](rec)
	e.Revision, e.floor = rec.ModRevision, floor
	return e, err
}

// GetFloor reads the floor; it is the zero Floor if nothing has raised it yet.
func GetFloor(ctx context.Context, s objects.Store, opts raftstore.ReadOptions) (Floor, error) {
	rec, ok, err := getRecord(ctx, s, floorKey, opts)
	if !ok || err != nil {
		return Floor{}, err
	}
	f, err := decodeValue[Floor](rec)
	f.Revision = rec.ModRevision
	return f, err
}

// GetLimits reads the limits on migrations. If none are stored, the result is empty and
// its Revision is zero.
func GetLimits(ctx context.Context, s objects.Store, opts raftstore.ReadOptions) (Limits, error) {
	rec, ok, err := getRecord(ctx, s, limitsKey, opts)
	if !ok || err != nil {
		return Limits{}, err
	}
	l, err := decodeValue[Limits](rec)
	l.Revision = rec.ModRevision
	return l, err
}

// GetCapacity reads the capacity of a host. If the host published none, the result is
// empty and its Revision is zero.
func GetCapacity(ctx context.Context, s objects.Store, host string, opts raftstore.ReadOptions) (Capacity, error) {
	rec, ok, err := getRecord(ctx, s, capacityKey(host), opts)
	if !ok || err != nil {
		return Capacity{Host: host}, err
	}
	c, err := decodeValue[Capacity](rec)
	c.Revision = rec.ModRevision
	return c, err
}

// GetVolume reads the claim on a volume. If there is none, the result has no holders
// and its Revision is zero.
func GetVolume(ctx context.Context, s objects.Store, key objects.Key, opts raftstore.ReadOptions) (Volume, error) {
	rec, ok, err := getRecord(ctx, s, volumeKey(key.Namespace, key.Name), opts)
	if !ok || err != nil {
		return Volume{Namespace: key.Namespace, Claim: key.Name}, err
	}
	v, err := decodeValue[Volume](rec)
	v.Revision = rec.ModRevision
	return v, err
}

// OnHost lists the claims that name the host as Host or as Target.
func OnHost(ctx context.Context, s objects.Store, host string, opts raftstore.ReadOptions) ([]Instance, error) {
	var held []Instance
	_, err := objects.ListRecords(ctx, s, instancePrefix, opts, func(rec raftstore.Record) error {
		in, err := decodeValue[Instance](rec)
		if err == nil && slices.Contains(in.Hosts(), host) {
			in.Revision = rec.ModRevision
			held = append(held, in)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	return held, nil
}

// VolumesOf lists the claims on volumes that the instance holds.
func VolumesOf(ctx context.Context, s objects.Store, uid types.UID, opts raftstore.ReadOptions) ([]Volume, error) {
	var held []Volume
	_, err := objects.ListRecords(ctx, s, volumePrefix, opts, func(rec raftstore.Record) error {
		v, err := decodeValue[Volume](rec)
		if err == nil && slices.Contains(v.Holders, uid) {
			v.Revision = rec.ModRevision
			held = append(held, v)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list claims on volumes: %w", err)
	}
	return held, nil
}

func getRecord(ctx context.Context, s objects.Store, key string, opts raftstore.ReadOptions) (raftstore.Record, bool, error) {
	rec, _, err := s.Get(ctx, key, opts)
	if errors.Is(err, raftstore.ErrNotFound) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, fmt.Errorf("read claim: %w", err)
	}
	return rec, true, nil
}
