package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
)

// testFSM returns the layer over a new machine, as Open makes it.
func testFSM() *fsm {
	limits := DefaultConfig().Limits
	return &fsm{
		machine: newMachine(nil, KnownLevels()), history: newHistory(limits), applied: &appliedIndex{},
		digests: newDigestLog(), checkpoints: newCheckpoints(), metrics: newMetrics(nil), levels: newLevelState(KnownLevels()),
		halt: func(error) {}, announce: func(announcement) {},
		configured: func(uint64, []raft.Server) {}, restored: func(uint64) {},
	}
}

// entryAt is a log entry that puts a record.
func entryAt(index, term uint64) *raft.Log {
	t := Txn{RequestID: fmt.Sprint(index, "/", term), Ops: []Op{{Key: fmt.Sprint("/k/", index), Value: fmt.Append(nil, term)}}}
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: encodeEntry(BaseLevel, [][]byte{encodeTxn(&t, 0)})}
}

func entriesAt(first, last, term uint64) (list []*raft.Log) {
	for i := first; i <= last; i++ {
		list = append(list, entryAt(i, term))
	}
	return list
}

// A snapshot that is older than the state is refused: readers are not taken back, watches go
// on, and so does the log.
func TestOlderSnapshotTakesNobodyBack(t *testing.T) {
	f := testFSM()
	f.ApplyBatch(entriesAt(1, 5, 1))
	var old bytes.Buffer
	if err := f.machine.snapshot(5).write(&old); err != nil {
		t.Fatal(err)
	}
	f.ApplyBatch(entriesAt(6, 10, 1))
	now := f.history.current()
	if err := f.Restore(io.NopCloser(&old)); !errors.Is(err, errOlderSnapshot) {
		t.Errorf("a snapshot at 5 of a state at 10: %v", err)
	}
	if got := f.history.current(); got.revision != now.revision || f.applied.get() != 10 || f.history.stats().compacted >= now.revision {
		t.Errorf("the state went from revision %d at 10 to %d at %d, compacted to %d", now.revision, got.revision, f.applied.get(), f.history.stats().compacted)
	}
	if _, ok := f.digests.at(10); !ok {
		t.Error("the digest at 10 is gone")
	}
	if s, err := f.Snapshot(); err != nil || s.(*snapshot).index != 10 {
		t.Errorf("a snapshot of the state at 10: %v, %v", s, err)
	}
	f.ApplyBatch(entriesAt(11, 11, 1))
	if got := f.history.current().revision; got != now.revision+1 || f.applied.get() != 11 {
		t.Errorf("the next entry leads to revision %d at %d, want %d at 11", got, f.applied.get(), now.revision+1)
	}
}

// A replica that stops between the installation of a snapshot and the end of its old log
// drops the log at its next start, unless that leads to the snapshot.
func TestLogBesideSnapshot(t *testing.T) {
	for name, c := range map[string]struct {
		log      []*raft.Log
		at, term uint64 // of the snapshot
		kept     bool
	}{
		"ends before it":       {entriesAt(1, 8, 1), 10, 3, false},
		"was never committed":  {append(entriesAt(1, 4, 1), entriesAt(5, 12, 2)...), 10, 3, false},
		"leads to it":          {append(entriesAt(1, 4, 1), entriesAt(5, 12, 3)...), 10, 3, true},
		"ends at it":           {append(entriesAt(1, 4, 1), entriesAt(5, 10, 3)...), 10, 3, true},
		"ends at another one":  {append(entriesAt(1, 4, 1), entriesAt(5, 10, 2)...), 10, 3, false},
		"begins behind it":     {entriesAt(11, 12, 3), 10, 3, true},
		"nothing was in it":    {nil, 10, 3, true},
		"no snapshot was made": {entriesAt(1, 4, 1), 0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.DataDir, cfg.Logger = t.TempDir(), slog.New(slog.DiscardHandler)
			d := openTestDisk(t, &cfg)
			if len(c.log) > 0 {
				if err := d.logs.StoreLogs(c.log); err != nil {
					t.Fatal(err)
				}
			}
			if c.at > 0 {
				writeSnapshotAt(t, d, c.at, c.term)
			}
			if err := d.close(0); err != nil {
				t.Fatal(err)
			}
			d = openTestDisk(t, &cfg)
			defer d.close(0)
			f := testFSM()
			if err := d.replay(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			last, err := d.logs.LastIndex()
			if err != nil {
				t.Fatal(err)
			}
			want := uint64(0)
			if n := len(c.log); n > 0 && c.kept {
				want = c.log[n-1].Index
			}
			if last != want || f.applied.get() != c.at || d.replayed != c.at {
				t.Errorf("the log ends at %d, want %d; applied %d, to be sent to others up to %d, want %d", last, want, f.applied.get(), d.replayed, c.at)
			}
		})
	}
}

// A recovery keeps the log that leads to the newest snapshot or goes on from it, and not one
// that the replica had not dropped yet when it stopped.
func TestRecoveryIgnoresOtherLog(t *testing.T) {
	cfg := DefaultConfig()
	cfg.NodeID, cfg.Addr, cfg.DataDir, cfg.Logger = "host1", "host1:7000", t.TempDir(), slog.New(slog.DiscardHandler)
	d := openTestDisk(t, &cfg)
	if err := errors.Join(d.setGroup(newIncarnation(), true), d.logs.StoreLogs(append(entriesAt(1, 4, 1), entriesAt(5, 12, 2)...))); err != nil {
		t.Fatal(err)
	}
	writeSnapshotAt(t, d, 10, 3)
	if err := d.close(0); err != nil {
		t.Fatal(err)
	}
	got, err := RecoverCluster(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Keys != 10 || got.Index != 10 {
		t.Errorf("%d records up to log index %d, want the 10 of the snapshot at 10: the log was never committed", got.Keys, got.Index)
	}
}

func openTestDisk(t *testing.T, cfg *Config) *disk {
	t.Helper()
	d, err := openDisk(cfg, cfg.Logger, newMetrics(nil))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func writeSnapshotAt(t *testing.T, d *disk, index, term uint64) {
	t.Helper()
	_, transport := raft.NewInmemTransport("host1:7000")
	servers := raft.Configuration{Servers: []raft.Server{{ID: "host1/1", Address: "host1:7000"}}}
	sink, err := d.snapshots.Create(raft.SnapshotVersionMax, index, term, servers, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	f := testFSM()
	f.ApplyBatch(entriesAt(1, index, term))
	if err := f.machine.snapshot(index).Persist(sink); err != nil {
		t.Fatal(err)
	}
}
