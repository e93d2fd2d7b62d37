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
	// NextKey holds the list that waits for signatures; there is at most one.
	NextKey = "/mesh/manifest-next"
	// Kept is how many lists the mesh keeps. A host that was off for longer than so many
	// changes of the voters cannot verify today's.
	Kept = 1000
	// page is how many lists are read at a time, and pageBytes how many bytes they have at most.
	page, pageBytes = 64, 1 << 20
)

// Key returns the key of a published list. Its keys are in the order of versions.
func Key(version uint64) string { return fmt.Sprintf("%s%020d", Prefix, version) }

// readAfter reads the published lists after a version, in order, at most page of them. It ends
// before one that cannot be read or is not of the version of its key: only the leader makes lists,
// but below level.Access any host can write. foul reports whether it has met such a record.
func readAfter(ctx context.Context, store identity.Store, version uint64, opts raftstore.ReadOptions) (list []*manifest.Signed, foul bool, err error) {
	records, err := recordsAfter(ctx, store, version, opts)
	if err != nil {
		return nil, false, err
	}
	for _, rec := range records {
		s, err := parseRecord(rec)
		if err != nil {
			return list, true, nil
		}
		list = append(list, s)
	}
	return list, false, nil
}

// parseRecord reads a published list, which must be of the version of its key.
func parseRecord(rec raftstore.Record) (*manifest.Signed, error) {
	s, err := manifest.Parse(rec.Value)
	if err != nil {
		return nil, err
	}
	if rec.Key != Key(s.Manifest().Version) {
		return nil, fmt.Errorf("%s holds version %d of the list of voters", rec.Key, s.Manifest().Version)
	}
	return s, nil
}

// Published returns the published lists after a version as they are stored, in order, and not
// more than a host sends at a time.
func Published(ctx context.Context, store identity.Store, version uint64, opts raftstore.ReadOptions) ([][]byte, error) {
	records, err := recordsAfter(ctx, store, version, opts)
	list := make([][]byte, 0, len(records))
	for _, rec := range records {
		list = append(list, rec.Value)
	}
	return list, err
}

// recordsAfter reads what stands after a version, at most page records with pageBytes.
func recordsAfter(ctx context.Context, store identity.Store, version uint64, opts raftstore.ReadOptions) ([]raftstore.Record, error) {
	res, err := store.List(ctx, raftstore.ListRequest{Prefix: Prefix, After: Key(version), Limit: page, ReadOptions: opts})
	if err != nil {
		return nil, fmt.Errorf("read the lists of voters: %w", err)
	}
	size := 0
	for i, rec := range res.Records {
		if size += len(rec.Value); size > pageBytes && i > 0 {
			return res.Records[:i], nil
		}
	}
	return res.Records, nil
}

// readAll reads all published lists, up to the first record that is none.
func readAll(ctx context.Context, store identity.Store, opts raftstore.ReadOptions) (all []*manifest.Signed, err error) {
	for version := uint64(0); ; {
		list, foul, err := readAfter(ctx, store, version, opts)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
		if foul || len(list) == 0 {
			return all, nil
		}
		version = list[len(list)-1].Manifest().Version // that of its key
	}
}

// readNewest reads the newest published list, nil if there is none.
func readNewest(ctx context.Context, store identity.Store, opts raftstore.ReadOptions) (*manifest.Signed, error) {
	all, err := readAll(ctx, store, opts)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[len(all)-1], nil
}

// readNext reads the list that waits for signatures, nil if there is none.
func readNext(ctx context.Context, store identity.Store) (*manifest.Signed, raftstore.Record, error) {
	rec, _, err := store.Get(ctx, NextKey, localRead)
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
