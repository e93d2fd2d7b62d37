package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// walFiles returns the log files of a data directory, oldest first.
func walFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("log files in %s: %v, %v", dir, files, err)
	}
	return files
}

// overwrite changes bytes of a file from where marker is.
func overwrite(t *testing.T, path, marker string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(b), marker)
	if i < 0 {
		t.Fatalf("%s is not in %s", marker, path)
	}
	b[i] ^= 0xff
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptLogIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		for i := range 50 {
			mustCommit(t, s, put(fmt.Sprint("/k/", i), fmt.Sprintf("value-%03d", i)))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		overwrite(t, walFiles(t, dir)[0], "value-020")
		_, err := openSingle(t, dir)
		if !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a damaged entry: %v", err)
		}
		// It let go of the directory, so it can be emptied and used again.
		if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
			t.Fatal(err)
		}
		mustOpenSingle(t, dir)
	})
}

// TestTornTailIsDropped: a write that a power loss cut short is dropped, and every
// write that was acknowledged before is there.
func TestTornTailIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		var keep raftstore.TxnResult
		for i := range 20 {
			keep = mustCommit(t, s, put(fmt.Sprint("/k/", i), "v"))
		}
		mustCommit(t, s, put("/torn", "the-last-write"))
		// What the disk would hold if the host had lost power during the last write.
		crashed := t.TempDir()
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		tearLastWrite(t, crashed)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// After an orderly end the same is damage: the write was acknowledged.
		tearLastWrite(t, dir)
		if _, err := openSingle(t, dir); !errors.Is(err, raftstore.ErrCorruptLog) || !strings.Contains(err.Error(), "was committed up to") {
			t.Errorf("opened without a write that was acknowledged: %v", err)
		}
		s = mustOpenSingle(t, crashed)
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
		if err != nil || len(l.Records) != 20 || l.Revision != keep.Revision {
			t.Errorf("after a torn write: %d records at %d, want 20 at %d, %v", len(l.Records), l.Revision, keep.Revision, err)
		}
		mustCommit(t, s, put("/k/more", "v"))
	})
}

// tearLastWrite damages the log from within the value "the-last-write" on.
func tearLastWrite(t *testing.T, dir string) {
	t.Helper()
	path := walFiles(t, dir)[0]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(b), "the-last-write")
	clear(b[i+4:])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptSnapshotIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "snapshotted-value"))
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
		if err != nil || len(files) != 1 {
			t.Fatalf("snapshots: %v, %v", files, err)
		}
		overwrite(t, files[0], "snapshotted-value")
		if _, err := openSingle(t, dir); !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a damaged snapshot: %v", err)
		}
	})
}

func TestCorruptMetaIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "v"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		metas, err := filepath.Glob(filepath.Join(dir, "wal", "*.db"))
		if err != nil || len(metas) != 1 {
			t.Fatalf("meta files: %v, %v", metas, err)
		}
		if err := os.WriteFile(metas[0], []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openSingle(t, dir); !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a damaged meta file: %v", err)
		}
	})
}

// TestDiskTroubleIsNoDamage opens a good copy while the system refuses to open or read it.
// The error must not say that the copy is damaged, because the remedy for damage is to
// delete it; and the copy is usable once the trouble is over.
func TestDiskTroubleIsNoDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "v"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, act := range []string{"Open", "FirstIndex", "GetLog", "Get"} {
			for _, errno := range []syscall.Errno{
				syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EBUSY, syscall.EACCES, syscall.ESTALE, syscall.ENOSPC, syscall.EDQUOT,
			} {
				_, err := openSingle(t, dir, raftstoretest.WithConfig(func(c *raftstore.Config) {
					raftstore.WrapReads(c, func(which string) error {
						if which != act {
							return nil
						}
						return &os.PathError{Op: "read", Path: "wal", Err: errno}
					})
				}))
				if !errors.Is(err, errno) || errors.Is(err, raftstore.ErrCorruptLog) {
					t.Errorf("%s fails with %v: %v", act, errno, err)
				}
				if full := errno == syscall.ENOSPC || errno == syscall.EDQUOT; errors.Is(err, raftstore.ErrDiskFull) != full {
					t.Errorf("%s fails with %v, reported as a full disk: %v", act, errno, !full)
				}
			}
		}
		mustOpenSingle(t, dir)
	})
}

// TestUnreadableSnapshotIsNoDamage: a snapshot whose description cannot be read for a
// while is not taken for one that never was, which would look like a gap in the log.
func TestUnreadableSnapshotIsNoDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "v"))
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		metas, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "meta.json"))
		if err != nil || len(metas) != 1 {
			t.Fatalf("descriptions: %v, %v", metas, err)
		}
		away := metas[0] + ".away"
		if err := os.Rename(metas[0], away); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("meta.json", metas[0]); err != nil { // reading it fails with ELOOP
			t.Fatal(err)
		}
		if _, err := openSingle(t, dir); !errors.Is(err, syscall.ELOOP) || errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a description that cannot be read: %v", err)
		}
		if err := os.Rename(away, metas[0]); err != nil {
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
