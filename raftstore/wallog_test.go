package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// logWriter writes a log whose files have room for a few entries.
type logWriter struct {
	t      *testing.T
	cfg    raftstore.Config
	stored uint64        // the last index that was stored
	told   atomic.Uint64 // the same, for the disk
}

func newLogWriter(t *testing.T, disk *raftstoretest.Disk) *logWriter {
	w := &logWriter{t: t, cfg: raftstore.DefaultConfig()}
	w.cfg.Logger = slog.New(slog.DiscardHandler)
	w.cfg.LogFiles, w.cfg.Limits.SegmentBytes = disk.LogFiles, 4096
	return w
}

// content is that of the entry at an index. Some are larger than a file.
func content(index uint64) []byte { return bytes.Repeat([]byte{byte(index)}, int(index*977%6000)) }

// write opens the log, checks all that was stored, and stores entries one by one and in
// batches, up to an index or until an error.
func (w *logWriter) write(upTo uint64) error {
	l, err := raftstore.OpenLog(&w.cfg, "log")
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = l.Close() }()
	last, err := l.LastIndex()
	if err != nil || last < w.stored {
		return fmt.Errorf("the log ends at %d (%w), want %d", last, err, w.stored)
	}
	for i := uint64(1); i <= last; i++ {
		var entry raft.Log
		if err := l.GetLog(i, &entry); err != nil || entry.Index != i || !bytes.Equal(entry.Data, content(i)) {
			return fmt.Errorf("entry %d has %d bytes, want %d: %w", i, len(entry.Data), len(content(i)), err)
		}
	}
	for w.stored = last; w.stored < upTo; {
		var batch []*raft.Log
		for i := range min(1+w.stored%4, upTo-w.stored) {
			index := w.stored + 1 + i
			batch = append(batch, &raft.Log{Index: index, Term: 1, Data: content(index)})
		}
		if err := l.StoreLogs(batch); err != nil {
			return fmt.Errorf("store %d entries after %d: %w", len(batch), w.stored, err)
		}
		w.stored += uint64(len(batch))
		w.told.Store(w.stored)
	}
	return nil
}

// A process that dies before any step of writing its log, or whose disk is full from any
// step on, finds all that was stored, and writes on.
func TestLogIsWritableAfterAnyFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const steps, half, whole = 120, 30, 60
		for step := 1; step <= steps; step++ {
			for name, fail := range map[string]func(*raftstoretest.Disk){
				"the process is killed": (*raftstoretest.Disk).Kill,
				"the power fails":       func(d *raftstoretest.Disk) { d.LosePower(rand.New(rand.NewPCG(uint64(step), 0))) },
				"the disk is full":      func(d *raftstoretest.Disk) { d.Fill(true) },
			} {
				disk := raftstoretest.NewDisk()
				w := newLogWriter(t, disk)
				var stored atomic.Uint64
				disk.Before(step, func() {
					stored.Store(w.told.Load())
					fail(disk)
				})
				err := w.write(half)
				full := errors.Is(err, syscall.ENOSPC)
				if err != nil && !full {
					t.Fatalf("%s before step %d: %v", name, step, err)
				}
				if !full && name != "the disk is full" {
					w.stored = stored.Load() // what was written since went nowhere
				}
				disk.Before(0, nil)
				disk.Fill(false)
				for _, upTo := range []uint64{half, whole, whole} {
					if err := w.write(upTo); err != nil {
						t.Fatalf("%s before step %d; then: %v", name, step, err)
					}
				}
			}
		}
	})
}

// A log whose disk was full for a while goes on without being opened again.
func TestLogGoesOnWhenThereIsRoom(t *testing.T) {
	for step := 1; step <= 60; step++ {
		disk := raftstoretest.NewDisk()
		w := newLogWriter(t, disk)
		l, err := raftstore.OpenLog(&w.cfg, "log")
		if err != nil {
			t.Fatal(err)
		}
		disk.Before(step, func() { disk.Fill(true) })
		failures := 0
		for index := uint64(1); index <= 40; index++ {
			err := l.StoreLog(&raft.Log{Index: index, Term: 1, Data: content(index)})
			if errors.Is(err, syscall.ENOSPC) {
				failures++
				disk.Fill(false)
				err = l.StoreLog(&raft.Log{Index: index, Term: 1, Data: content(index)})
			}
			if err != nil {
				t.Fatalf("the disk was full from step %d on; then entry %d: %v", step, index, err)
			}
		}
		if failures == 0 {
			t.Errorf("the disk was full from step %d on, and nothing failed", step)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		w.stored = 40
		if err := w.write(50); err != nil {
			t.Fatalf("the disk was full from step %d on; opened again: %v", step, err)
		}
	}
}
