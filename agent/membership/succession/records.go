package succession

import (
	"context"
	"errors"
	"fmt"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/raftstore"
)

const (
	// Prefix, followed by the version, holds a published list. Nothing else is below it.
	Prefix = "/mesh/manifests/"
	// nextKey holds the list that waits for signatures.
	nextKey = "/mesh/manifest-next"
	// Kept is how many lists the mesh keeps. A host that was off for longer than so many
	// changes of the voters cannot verify today's.
	Kept = 1000
	// page is how many lists are read at a time, and pageBytes how many bytes they have at most.
	page, pageBytes = 64, 1 << 20
)

// Key returns the key of a published list. Its keys are in the order of versions.
func Key(version uint64) string { return fmt.Sprintf("%s%020d", Prefix, version) }

// readAfter reads the published lists after a version, in order, at most page of them. It ends
// before one that cannot be read: only the leader makes lists, but any host can write.
func readAfter(ctx context.Context, store identity.Store, version uint64, opts raftstore.ReadOptions) ([]*manifest.Signed, error) {
	raw, err := Published(ctx, store, version, opts)
	if err != nil {
		return nil, err
	}
	list := make([]*manifest.Signed, 0, len(raw))
	for _, data := range raw {
		s, err := manifest.Parse(data)
		if err != nil {
			break
		}
		list = append(list, s)
	}
	return list, nil
}

// Published returns the published lists after a version as they are stored, in order, and not
// more than a host sends at a time.
func Published(ctx context.Context, store identity.Store, version uint64, opts raftstore.ReadOptions) ([][]byte, error) {
	res, err := store.List(ctx, raftstore.ListRequest{Prefix: Prefix, After: Key(version), Limit: page, ReadOptions: opts})
	if err != nil {
		return nil, fmt.Errorf("read the lists of voters: %w", err)
	}
	list := make([][]byte, 0, len(res.Records))
	size := 0
	for _, rec := range res.Records {
		if size += len(rec.Value); size > pageBytes && len(list) > 0 {
			break
		}
		list = append(list, rec.Value)
	}
	return list, nil
}

// readNewest reads the newest published list, nil if there is none.
func readNewest(ctx context.Context, store identity.Store, opts raftstore.ReadOptions) (*manifest.Signed, error) {
	var newest *manifest.Signed
	for version := uint64(0); ; version = newest.Manifest().Version {
		list, err := readAfter(ctx, store, version, opts)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return newest, nil
		}
		newest = list[len(list)-1]
	}
}

// readNext reads the list that waits for signatures, nil if there is none.
func readNext(ctx context.Context, store identity.Store) (*manifest.Signed, raftstore.Record, error) {
	rec, _, err := store.Get(ctx, nextKey, localRead)
	if errors.Is(err, raftstore.ErrNotFound) {
		return nil, raftstore.Record{}, nil
	}
	if err != nil {
		return nil, rec, fmt.Errorf("read the next list of voters: %w", err)
	}
	next, err := manifest.Parse(rec.Value)
	if err != nil {
		return nil, rec, nil // the leader replaces what it cannot read
	}
	return next, rec, nil
}

// revisionOf returns the revision of a record, zero if there is none.
func revisionOf(ctx context.Context, store identity.Store, key string) (uint64, error) {
	rec, _, err := store.Get(ctx, key, localRead)
	if errors.Is(err, raftstore.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the list of voters: %w", err)
	}
	return rec.ModRevision, nil
}
