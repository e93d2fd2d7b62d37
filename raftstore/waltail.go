package raftstore

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// mendTail makes the last file of a log writable again. It is not if it is sealed and the
// list of files does not say so, or if its end looks sealed and was torn. Its entries are
// copied to a new file, which takes its place in the list. A copy that is sealed as well,
// because it is as large, is noted as sealed, and another file follows.
//
// It changes nothing in a log that is well, and may be interrupted anywhere: what counts
// is the list, which changes as a whole.
func mendTail(dir string, filer *segment.Filer, meta types.MetaStore) error {
	state, err := meta.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return err
	}
	last := len(state.Segments) - 1
	tail := state.Segments[last]
	if !tail.SealTime.IsZero() {
		return nil
	}
	entries, stuck, err := readStuck(filer, tail)
	if err != nil || !stuck {
		return err
	}
	if err := deleteUnlisted(filer, state.Segments); err != nil {
		return err
	}
	state.Segments = slices.Clone(state.Segments)
	next := func(base uint64) types.SegmentInfo {
		info := types.SegmentInfo{ID: state.NextSegmentID, BaseIndex: base, MinIndex: base, Codec: tail.Codec, SizeLimit: tail.SizeLimit, CreateTime: time.Now()}
		state.NextSegmentID++
		return info
	}
	fresh := next(tail.BaseIndex)
	fresh.MinIndex = tail.MinIndex
	w, err := filer.Create(fresh)
	if err != nil {
		return err
	}
	if err := errors.Join(w.Append(entries), seal(w, &fresh)); err != nil {
		return errors.Join(err, w.Close())
	}
	state.Segments[last] = fresh
	if !fresh.SealTime.IsZero() {
		state.Segments = append(state.Segments, next(fresh.MaxIndex+1))
	}
	return errors.Join(w.Close(), meta.CommitState(state))
}

// readStuck returns the entries of the last file if it is not writable.
func readStuck(filer *segment.Filer, tail types.SegmentInfo) (entries []types.LogEntry, stuck bool, err error) {
	info := tail
	info.MinIndex = info.BaseIndex // the copy begins where the file does
	r, err := filer.RecoverTail(info)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // the library makes it when it opens the log
	}
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if stuck, _, err = r.Sealed(); err != nil || !stuck {
		return nil, false, err
	}
	for i := info.BaseIndex; i <= r.LastIndex(); i++ {
		b, err := r.GetLog(i)
		if err != nil {
			return nil, false, err
		}
		entries = append(entries, types.LogEntry{Index: i, Data: slices.Clone(b.Bs)})
		if err := b.Close(); err != nil {
			return nil, false, err
		}
	}
	return entries, true, nil
}

// seal notes in info that a file is sealed, if it is.
func seal(w types.SegmentWriter, info *types.SegmentInfo) error {
	sealed, indexStart, err := w.Sealed()
	if err == nil && sealed {
		info.SealTime, info.MaxIndex, info.IndexStart = time.Now(), w.LastIndex(), indexStart
	}
	return err
}

// deleteUnlisted deletes the files that an interrupted change has left behind, whose names
// would be used again.
func deleteUnlisted(filer *segment.Filer, listed []types.SegmentInfo) error {
	files, err := filer.List()
	if err != nil {
		return err
	}
	for id, base := range files {
		if slices.ContainsFunc(listed, func(info types.SegmentInfo) bool { return info.ID == id }) {
			continue
		}
		if err := filer.Delete(base, id); err != nil {
			return err
		}
	}
	return nil
}
