package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// openSingle opens a replica of its own with data in dir.
func openSingle(t *testing.T, dir string, options ...raftstoretest.Option) (*raftstore.Store, error) {
	t.Helper()
	cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "host1", options...)
	cfg.DataDir, cfg.Bootstrap = dir, true
	return raftstore.Open(t.Context(), cfg)
}

func mustOpenSingle(t *testing.T, dir string, options ...raftstoretest.Option) *raftstore.Store {
	t.Helper()
	s, err := openSingle(t, dir, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	raftstoretest.WaitServing(t, s)
	return s
}

func TestStateSurvivesRestart(t *testing.T) {
	for _, snapshots := range []bool{false, true} {
		t.Run(fmt.Sprint("snapshots=", snapshots), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				s := mustOpenSingle(t, dir)
				var last raftstore.TxnResult
				for i := range 200 {
					last = mustCommit(t, s, put(fmt.Sprint("/k/", i%50), fmt.Sprint(i)))
					if snapshots && i%60 == 59 {
						if err := s.Snapshot(); err != nil {
							t.Fatal(err)
						}
					}
				}
				retried := put("/retried", "v")
				retried.RequestID = "id"
				first := mustCommit(t, s, retried)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = mustOpenSingle(t, dir)
				l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
				if err != nil || len(l.Records) != 50 || l.Revision != first.Revision {
					t.Fatalf("after restart: %d records at %d, want 50 at %d, %v", len(l.Records), l.Revision, first.Revision, err)
				}
				if again := mustCommit(t, s, retried); again.Revision != first.Revision {
					t.Errorf("retry after restart took revision %d, first %d", again.Revision, first.Revision)
				}
				if next := mustCommit(t, s, put("/k/next", "v")); next.Revision != last.Revision+2 {
					t.Errorf("revision %d follows %d", next.Revision, first.Revision)
				}
			})
		})
	}
}

// TestRestartWithoutQuorumShowsCommittedState: a host that starts alone must not
// act on the state of its last snapshot.
func TestRestartWithoutQuorumShowsCommittedState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		var last raftstore.TxnResult
		for i := range 50 {
			last = mustCommit(t, c.Live()[0], put(fmt.Sprint("/k/", i), "v"))
		}
		c.WaitRevision(last.Revision)
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Kill(id)
		}
		s := c.Restart("host2")
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/", ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
		if err != nil || len(l.Records) != 50 || l.Revision != last.Revision {
			t.Errorf("local state after a restart alone: %d records at %d, want 50 at %d, %v", len(l.Records), l.Revision, last.Revision, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := s.Commit(ctx, put("/k", "v")); !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("commit without quorum: %v", err)
		}
		c.Restart("host1")
		mustCommit(t, s, put("/k", "v"))
	})
}

// TestLaggingReplicaGetsSnapshot: a replica that was away while the entries it lacks
// were dropped from the log catches up by a snapshot, and its watches end.
func TestLaggingReplicaGetsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Limits.SnapshotEntries = 50
			cfg.Limits.TrailingBytes = 1
			cfg.Limits.SegmentBytes = 4096 // a log file is only ever removed as a whole
		}))
		leader := c.Leader()
		away := "host1"
		if leader == away {
			away = "host2"
		}
		s := c.Node(away)
		w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		c.Net.Cut(c.Addr(away))
		var last raftstore.TxnResult
		for i := range 400 {
			last = mustCommit(t, c.Node(leader), put(fmt.Sprint("/k/", i), strings.Repeat("v", 100)))
		}
		if err := c.Node(leader).Snapshot(); err != nil {
			t.Fatal(err)
		}
		c.Net.Heal()
		c.WaitRevision(last.Revision)
		if drain(w); !errors.Is(w.Err(), raftstore.ErrCompacted) {
			t.Errorf("watch over an installed snapshot ended with %v", w.Err())
		}
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
		if err != nil || len(l.Records) != 400 {
			t.Errorf("%d records, %v", len(l.Records), err)
		}
		mustCommit(t, s, put("/k/after", "v"))
	})
}

func TestLockedDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		_, err := openSingle(t, dir)
		if !errors.Is(err, raftstore.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("second open: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		mustOpenSingle(t, dir)
	})
}

func TestRecoverCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		var last raftstore.TxnResult
		for i := range 30 {
			last = mustCommit(t, c.Live()[0], put(fmt.Sprint("/k/", i), "v"))
		}
		c.WaitRevision(last.Revision)
		var cfg raftstore.Config
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Kill(id)
		}
		cfg = c.Config("host2")
		got, err := raftstore.RecoverCluster(t.Context(), cfg, nil)
		if err != nil || got.Keys != 30+1 || got.Copy != last.Revision || got.Followed {
			t.Fatalf("recovered %+v, %v", got, err)
		}
		s := c.Restart("host2")
		raftstoretest.WaitServing(t, s)
		mustCommit(t, s, put("/k/after", "v"))
		if voters := s.Status(t.Context()).Voters; len(voters) != 1 || voters[0] != "host2" {
			t.Errorf("voters %v", voters)
		}
		// The others join again, emptied.
		if err := os.RemoveAll(c.Config("host1").DataDir); err != nil {
			t.Fatal(err)
		}
		back := c.Restart("host1")
		if err := back.Join(t.Context(), []string{c.Addr("host2")}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := back.Get(t.Context(), "/k/after", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil {
			t.Error(err)
		}
	})
}

func TestRecoverRefusesRunningReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		mustOpenSingle(t, dir)
		cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "host1")
		cfg.DataDir = dir
		if _, err := raftstore.RecoverCluster(t.Context(), cfg, nil); !errors.Is(err, raftstore.ErrLocked) {
			t.Errorf("recover of a running replica: %v", err)
		}
	})
}

// TestDiskFull: a leader that cannot write gives up leadership and reports why. With
// every disk full nothing is acknowledged, and writes continue once there is space.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full [4]atomic.Bool
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			disk := &full[cfg.NodeID[len(cfg.NodeID)-1]-'0']
			raftstore.WrapLog(cfg, func() error {
				if disk.Load() {
					return &os.PathError{Op: "write", Path: "wal", Err: syscall.ENOSPC}
				}
				return nil
			})
		}))
		leader := c.Leader()
		mustCommit(t, c.Node(leader), put("/k", "before"))
		full[leader[len(leader)-1]-'0'].Store(true)
		if _, err := c.Node(leader).Commit(t.Context(), put("/k", "cannot be seen here")); !errors.Is(err, raftstore.ErrDiskFull) {
			t.Errorf("commit at the replica without space: %v", err)
		}
		for _, s := range c.Live() {
			if s != c.Node(leader) {
				mustCommit(t, s, put("/k", "one disk is full"))
			}
		}
		if st := c.Node(leader).Status(t.Context()); !strings.Contains(st.Failure, "no space left") {
			t.Errorf("status of the replica without space: %q", st.Failure)
		}
		for i := range full {
			full[i].Store(true)
		}
		s := c.Node(c.Live()[0].Status(t.Context()).NodeID)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Commit(ctx, put("/k", "all are full"))
		if !errors.Is(err, raftstore.ErrUnknownOutcome) && !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("commit with every disk full: %v", err)
		}
		if !errors.Is(err, raftstore.ErrDiskFull) && !strings.Contains(err.Error(), "no space left") {
			t.Errorf("error does not name the cause: %v", err)
		}
		for i := range full {
			full[i].Store(false)
		}
		mustCommit(t, c.Node(leader), put("/k", "after"))
		raftstoretest.Eventually(t, func() error {
			for _, s := range c.Live() {
				if f := s.Status(t.Context()).Failure; f != "" {
					return errors.New(f)
				}
				if _, err := s.Commit(t.Context(), put("/k", "heal")); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func TestBackupAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		var last raftstore.TxnResult
		for i := range 40 {
			last = mustCommit(t, c.Live()[i%3], put(fmt.Sprint("/k/", i%25), fmt.Sprint(i)))
		}
		var backup bytes.Buffer
		at, err := c.Live()[1].Backup(t.Context(), &backup)
		if err != nil || at != last.Revision {
			t.Fatalf("backup at %d, want %d, %v", at, last.Revision, err)
		}
		want, err := c.Live()[1].List(t.Context(), raftstore.ListRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "new")
		cfg.DataDir = t.TempDir()
		damaged := bytes.Clone(backup.Bytes())
		damaged[len(damaged)/2] ^= 1
		if _, err := raftstore.RestoreBackup(t.Context(), cfg, bytes.NewReader(damaged), nil); !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("restore of a damaged backup: %v", err)
		}
		got, err := raftstore.RestoreBackup(t.Context(), cfg, bytes.NewReader(backup.Bytes()), nil)
		if err != nil || got.Copy != last.Revision || got.Revision <= last.Revision || got.Keys != 25+1 {
			t.Fatalf("restored %+v, %v", got, err)
		}
		if _, err := raftstore.RestoreBackup(t.Context(), cfg, bytes.NewReader(backup.Bytes()), nil); err == nil {
			t.Error("restored over existing state")
		}
		s, err := raftstore.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		raftstoretest.WaitServing(t, s)
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/"})
		for i := range want.Records {
			want.Records[i].ModRevision = got.Revision
		}
		if err != nil || !reflect.DeepEqual(l.Records, want.Records) {
			t.Errorf("restored %d records at %d, want %d, %v", len(l.Records), l.Revision, len(want.Records), err)
		}
		if next := mustCommit(t, s, put("/k/next", "v")); next.Revision != got.Revision+1 {
			t.Errorf("revision %d follows %d", next.Revision, got.Revision)
		}
	})
}
