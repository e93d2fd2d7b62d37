package storagetest

import (
	"testing"

	"virtmesh/storage"
)

func testSnapshots(t *testing.T, s *suite) {
	snap, ok := s.Pool.(storage.Snapshotter)
	if !ok {
		t.Skip("the pool has no snapshots")
	}
	for _, f := range s.formats() {
		n := string(f)
		v := s.make(t, storage.VolumeSpec{Name: n, Size: 2 * mib, Format: f})
		s.WriteAt(t, v, []byte("one"), mib)
		got, err := snap.Snapshot(s.ctx, n, "s1")
		if err != nil {
			t.Fatal(err)
		}
		if got.Volume != n || got.Name != "s1" || got.Size != 2*mib || got.Created.IsZero() {
			t.Errorf("snapshot is %+v", got)
		}
		_, err = snap.Snapshot(s.ctx, n, "s1")
		want(t, "second snapshot", err, storage.ErrExists)
		s.WriteAt(t, v, []byte("two"), mib)
		if _, err := s.Expand(s.ctx, n, 4*mib); err != nil {
			t.Fatal(err)
		}
		if _, err := snap.Snapshot(s.ctx, n, "s2"); err != nil {
			t.Fatal(err)
		}
		list, err := snap.Snapshots(s.ctx, n)
		if err != nil || len(list) != 2 || list[0].Name != "s1" || list[1].Name != "s2" || list[1].Size != 4*mib {
			t.Errorf("listed %+v, %v", list, err)
		}
		c := s.make(t, storage.VolumeSpec{Name: n + "-clone", Source: &storage.Source{Volume: n, Snapshot: "s1"}})
		if got := s.ReadAt(t, c, 3, mib); string(got) != "one" || c.Size != 2*mib {
			t.Errorf("clone of the snapshot: %+v with %q", c, got)
		}
		s.restoreAndDelete(t, snap, v)
	}
	_, err := snap.Snapshot(s.ctx, "none", "s")
	want(t, "snapshot of no volume", err, storage.ErrNotFound)
	_, err = snap.Snapshots(s.ctx, "none")
	want(t, "snapshots of no volume", err, storage.ErrNotFound)
	_, err = snap.Restore(s.ctx, string(s.formats()[0]), "none")
	want(t, "restore of no snapshot", err, storage.ErrNotFound)
	_, err = snap.Snapshot(s.ctx, string(s.formats()[0]), "../s")
	want(t, "bad name", err, storage.ErrInvalid)
}

// restoreAndDelete restores a volume with snapshots s1 and s2 to s1 ("one", 2 MiB),
// deletes s1, and then the volume, which still has s2.
func (s *suite) restoreAndDelete(t *testing.T, snap storage.Snapshotter, v storage.Volume) {
	t.Helper()
	r, err := snap.Restore(s.ctx, v.Name, "s1")
	if err != nil || r.Size != 2*mib || r.Path != v.Path {
		t.Fatalf("restored %+v, %v", r, err)
	}
	if got := s.ReadAt(t, r, 3, mib); string(got) != "one" {
		t.Errorf("restored content is %q", got)
	}
	s.WriteAt(t, r, []byte("new"), mib)
	if r, err = snap.Restore(s.ctx, v.Name, "s1"); err != nil {
		t.Fatal(err)
	}
	if got := s.ReadAt(t, r, 3, mib); string(got) != "one" {
		t.Errorf("a write after a restore reached the snapshot: %q", got)
	}
	for range 2 {
		if err := snap.DeleteSnapshot(s.ctx, v.Name, "s1"); err != nil {
			t.Errorf("delete snapshot: %v", err)
		}
	}
	if list, err := snap.Snapshots(s.ctx, v.Name); err != nil || len(list) != 1 {
		t.Errorf("left are %+v, %v", list, err)
	}
	if got := s.ReadAt(t, r, 3, mib); string(got) != "one" {
		t.Errorf("deleting a snapshot changed its volume: %q", got)
	}
	if err := s.Delete(s.ctx, v.Name); err != nil {
		t.Errorf("delete with snapshots: %v", err)
	}
}
