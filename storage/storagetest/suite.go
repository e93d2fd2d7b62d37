// Package storagetest holds the suite that every storage.Pool must pass, and a
// pool in memory that passes it, for the tests of packages that use pools.
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"virtmesh/storage"
)

// Access reads and writes the disk in a volume or a source file, as a virtual machine
// does. Files implements it for drivers whose volumes are files.
type Access interface {
	// WriteAt writes b to the disk at offset off.
	WriteAt(t *testing.T, v storage.Volume, b []byte, off int64)
	// ReadAt reads n bytes of the disk at offset off.
	ReadAt(t *testing.T, v storage.Volume, n int, off int64) []byte
}

// Run runs the suite. open makes a new, empty pool, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) (storage.Pool, Access)) {
	for name, test := range map[string]func(t *testing.T, s *suite){
		"Info":                   testInfo,
		"CreateGetListDelete":    testLife,
		"Formats":                testFormats,
		"RefusesBadSpecs":        testBadSpecs,
		"RefusesBadNames":        testBadNames,
		"FromFile":               testFromFile,
		"FromBadFile":            testFromBadFile,
		"FromVolume":             testFromVolume,
		"Expand":                 testExpand,
		"OddSizes":               testOddSizes,
		"RacingCreates":          testRacingCreates,
		"RacingDeletesAndReads":  testRacingDeletes,
		"EndedContext":           testContext,
		"Usage":                  testUsage,
		"Closed":                 testClosed,
		"Snapshots":              testSnapshots,
		"CloneOutlivesItsSource": testCloneOutlives,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, a := open(t)
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(t, &suite{Pool: p, Access: a, ctx: context.Background()})
		})
	}
}

type suite struct {
	storage.Pool
	Access
	ctx context.Context // of one test
}

const mib = 1 << 20

func (s *suite) make(t *testing.T, spec storage.VolumeSpec) storage.Volume {
	t.Helper()
	v, err := s.Create(s.ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (s *suite) formats() []storage.Format { return s.Info().Capabilities.Formats }

func want(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: got %v, want %v", what, err, class)
	}
}

func testInfo(t *testing.T, s *suite) {
	i := s.Info()
	if i.Name == "" || i.Driver == "" || len(i.Capabilities.Formats) == 0 {
		t.Errorf("info is %+v", i)
	}
	if _, ok := s.Pool.(storage.Snapshotter); ok != i.Capabilities.Snapshots {
		t.Errorf("capability Snapshots is %v, the methods say %v", i.Capabilities.Snapshots, ok)
	}
}

func testLife(t *testing.T, s *suite) {
	if vols, err := s.List(s.ctx); err != nil || len(vols) != 0 {
		t.Fatalf("a new pool has %v, %v", vols, err)
	}
	var names []string
	for _, n := range []string{"b", "a", "a.b-c_d", "9", strings.Repeat("n", 200)} {
		v := s.make(t, storage.VolumeSpec{Name: n, Size: 3 * mib})
		if v.Name != n || v.Size != 3*mib || v.Format != s.formats()[0] || v.Path == "" || v.Created.IsZero() {
			t.Errorf("created %+v", v)
		}
		got, err := s.Get(s.ctx, n)
		if err != nil || got != v {
			t.Errorf("got %+v, %v; created %+v", got, err, v)
		}
		_, err = s.Create(s.ctx, storage.VolumeSpec{Name: n, Size: mib})
		want(t, "second create", err, storage.ErrExists)
		names = append(names, n)
	}
	slices.Sort(names)
	vols, err := s.List(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, v := range vols {
		listed = append(listed, v.Name)
	}
	if !slices.Equal(listed, names) {
		t.Errorf("listed %q, made %q", listed, names)
	}
	for range 2 {
		if err := s.Delete(s.ctx, "a"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	_, err = s.Get(s.ctx, "a")
	want(t, "get after delete", err, storage.ErrNotFound)
	// The name can be used again, and the old content is gone.
	v := s.make(t, storage.VolumeSpec{Name: "a", Size: mib})
	if v.Size != mib {
		t.Errorf("made anew: %+v", v)
	}
}

func testFormats(t *testing.T, s *suite) {
	for _, f := range s.formats() {
		v := s.make(t, storage.VolumeSpec{Name: "v-" + string(f), Size: 2 * mib, Format: f, Preallocate: true})
		if v.Format != f || v.Size != 2*mib {
			t.Errorf("made %+v", v)
		}
		data := []byte("written to a " + string(f) + " volume")
		s.WriteAt(t, v, data, mib)
		if got := s.ReadAt(t, v, len(data), mib); string(got) != string(data) {
			t.Errorf("%s: read %q", f, got)
		}
		if got := s.ReadAt(t, v, 4096, 0); strings.Trim(string(got), "\x00") != "" {
			t.Errorf("%s: a new volume does not begin with zeros", f)
		}
	}
	// The pool never derives a volume's format from what a guest has written.
	if slices.Contains(s.formats(), storage.Raw) {
		v := s.make(t, storage.VolumeSpec{Name: "trick", Size: 2 * mib, Format: storage.Raw})
		s.WriteAt(t, v, []byte("QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x68\x00\x00\x00\x0b"), 0)
		got, err := s.Get(s.ctx, "trick")
		if err != nil || got.Format != storage.Raw || got.Size != 2*mib {
			t.Errorf("a raw volume became %+v, %v", got, err)
		}
		c, err := s.Create(s.ctx, storage.VolumeSpec{Name: "copy", Format: storage.Raw, Source: &storage.Source{Volume: "trick"}})
		if err != nil || c.Size != 2*mib {
			t.Errorf("its copy is %+v, %v", c, err)
		}
	}
}

func testBadSpecs(t *testing.T, s *suite) {
	s.make(t, storage.VolumeSpec{Name: "there", Size: 2 * mib})
	for name, c := range map[string]struct {
		spec storage.VolumeSpec
		want error
	}{
		"no size":           {storage.VolumeSpec{}, storage.ErrInvalid},
		"negative size":     {storage.VolumeSpec{Size: -1}, storage.ErrInvalid},
		"absurd size":       {storage.VolumeSpec{Size: storage.MaxVolumeSize + 1}, storage.ErrInvalid},
		"format":            {storage.VolumeSpec{Size: mib, Format: "vmdk"}, storage.ErrInvalid},
		"empty source":      {storage.VolumeSpec{Size: mib, Source: &storage.Source{}}, storage.ErrInvalid},
		"two sources":       {storage.VolumeSpec{Size: mib, Source: &storage.Source{File: "/x", FileFormat: storage.Raw, Volume: "there"}}, storage.ErrInvalid},
		"unknown source":    {storage.VolumeSpec{Size: mib, Source: &storage.Source{Volume: "none"}}, storage.ErrNotFound},
		"unknown snapshot":  {storage.VolumeSpec{Size: 2 * mib, Source: &storage.Source{Volume: "there", Snapshot: "none"}}, storage.ErrNotFound},
		"guessed format":    {storage.VolumeSpec{Size: mib, Source: &storage.Source{File: "/x"}}, storage.ErrInvalid},
		"source path":       {storage.VolumeSpec{Size: mib, Source: &storage.Source{Volume: "../there"}}, storage.ErrInvalid},
		"smaller than that": {storage.VolumeSpec{Size: mib, Source: &storage.Source{Volume: "there"}}, storage.ErrInvalid},
	} {
		c.spec.Name = "new"
		_, err := s.Create(s.ctx, c.spec)
		want(t, name, err, c.want)
		_, err = s.Get(s.ctx, "new")
		want(t, name+", afterwards", err, storage.ErrNotFound)
	}
}

func testBadNames(t *testing.T, s *suite) {
	for _, n := range []string{"", ".", "..", "a/b", "../a", "/a", "-a", ".a", "a b", "a\x00", "ü", strings.Repeat("n", 201)} {
		_, err := s.Create(s.ctx, storage.VolumeSpec{Name: n, Size: mib})
		want(t, fmt.Sprintf("create %q", n), err, storage.ErrInvalid)
		_, err = s.Get(s.ctx, n)
		want(t, fmt.Sprintf("get %q", n), err, storage.ErrInvalid)
		_, err = s.Expand(s.ctx, n, mib)
		want(t, fmt.Sprintf("expand %q", n), err, storage.ErrInvalid)
		want(t, fmt.Sprintf("delete %q", n), s.Delete(s.ctx, n), storage.ErrInvalid)
	}
}

// oddSizes are sizes as users write them (1, 5k, 100M, 1G and 3G in powers of ten), and
// a disk that is one sector larger than a block.
var oddSizes = []int64{1, 5_000, 4096 + 512, 100_000_000, 1_000_000_000, 3_000_000_000}

// testOddSizes makes disks of such sizes in every way that a pool has. QEMU could not
// write to a disk whose size were not rounded up.
func testOddSizes(t *testing.T, s *suite) {
	for i, size := range oddSizes {
		up := storage.AlignSize(size)
		for _, f := range s.formats() {
			check := func(what string, v storage.Volume) {
				t.Helper()
				if v.Size != up {
					t.Errorf("%s of %d bytes (%s) has %d, want %d", what, size, f, v.Size, up)
				}
			}
			n := fmt.Sprintf("%s-%d", f, i)
			check("blank volume", s.make(t, storage.VolumeSpec{Name: n, Size: size, Format: f}))
			check("clone", s.make(t, storage.VolumeSpec{Name: n + "-clone", Size: size, Format: f, Source: &storage.Source{Volume: n}}))
			s.make(t, storage.VolumeSpec{Name: n + "-grown", Size: 1, Format: f})
			grown, err := s.Expand(s.ctx, n+"-grown", size)
			if err != nil {
				t.Fatalf("expand to %d: %v", size, err)
			}
			check("expanded volume", grown)
			if size > mib {
				continue // a pool may read the whole of a source
			}
			src := storage.Source{File: sourceFile(t, size, "x", 0), FileFormat: storage.Raw}
			check("import", s.make(t, storage.VolumeSpec{Name: n + "-import", Format: f, Source: &src}))
			check("import with its size", s.make(t, storage.VolumeSpec{Name: n + "-sized", Size: size, Format: f, Source: &src}))
		}
	}
}

func testExpand(t *testing.T, s *suite) {
	_, err := s.Expand(s.ctx, "none", mib)
	want(t, "no volume", err, storage.ErrNotFound)
	for _, f := range s.formats() {
		n := string(f)
		v := s.make(t, storage.VolumeSpec{Name: n, Size: 2 * mib, Format: f})
		s.WriteAt(t, v, []byte("kept"), mib)
		for _, step := range []struct{ ask, want int64 }{{5 * mib, 5 * mib}, {5 * mib, 5 * mib}, {mib, 5 * mib}} {
			got, err := s.Expand(s.ctx, n, step.ask)
			if err != nil || got.Size != step.want {
				t.Errorf("%s: expand to %d gave %+v, %v", f, step.ask, got, err)
			}
		}
		if got, err := s.Get(s.ctx, n); err != nil || got.Size != 5*mib {
			t.Errorf("%s: afterwards %+v, %v", f, got, err)
		}
		if got := s.ReadAt(t, v, 4, mib); string(got) != "kept" {
			t.Errorf("%s: read %q", f, got)
		}
		for _, bad := range []int64{0, -1, storage.MaxVolumeSize + 1} {
			_, err := s.Expand(s.ctx, n, bad)
			want(t, fmt.Sprintf("expand to %d", bad), err, storage.ErrInvalid)
		}
	}
}

func testRacingCreates(t *testing.T, s *suite) {
	src := sourceFile(t, 2*mib, "content", mib)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		won int
	)
	for range 8 {
		wg.Go(func() {
			_, err := s.Create(s.ctx, storage.VolumeSpec{Name: "one", Source: &storage.Source{File: src, FileFormat: storage.Raw}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, storage.ErrExists) {
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d creates won", won)
	}
	v, err := s.Get(s.ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.ReadAt(t, v, 7, mib); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}

func testRacingDeletes(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 5 {
				_, err := s.Create(s.ctx, storage.VolumeSpec{Name: "x", Size: mib})
				if err != nil && !errors.Is(err, storage.ErrExists) && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("create: %v", err)
				}
				if v, err := s.Get(s.ctx, "x"); err == nil && v.Size < mib || err != nil && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("get: %+v, %v", v, err)
				}
				if _, err := s.Expand(s.ctx, "x", 2*mib); err != nil && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("expand: %v", err)
				}
				if _, err := s.List(s.ctx); err != nil {
					t.Errorf("list: %v", err)
				}
				if i%2 == 0 {
					if err := s.Delete(s.ctx, "x"); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func testContext(t *testing.T, s *suite) {
	s.make(t, storage.VolumeSpec{Name: "there", Size: mib})
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.Create(ctx, storage.VolumeSpec{Name: "new", Size: mib})
	want(t, "create", err, context.Canceled)
	want(t, "delete", s.Delete(ctx, "there"), context.Canceled)
	if _, err := s.Get(s.ctx, "there"); err != nil {
		t.Errorf("a canceled delete deleted: %v", err)
	}
	_, err = s.Get(s.ctx, "new")
	want(t, "a canceled create", err, storage.ErrNotFound)
}

func testUsage(t *testing.T, s *suite) {
	s.make(t, storage.VolumeSpec{Name: "a", Size: mib})
	s.make(t, storage.VolumeSpec{Name: "b", Size: 2 * mib})
	u, err := s.Usage(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if u.Volumes != 2 || u.Provisioned != 3*mib || u.Capacity <= 0 || u.Free < 0 || u.Free > u.Capacity {
		t.Errorf("usage is %+v", u)
	}
	if s.Info().Capabilities.Thin && u.Allocated > 2*mib {
		t.Errorf("a thin pool occupies %d bytes for nothing", u.Allocated)
	}
}

func testClosed(t *testing.T, s *suite) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Create(s.ctx, storage.VolumeSpec{Name: "a", Size: mib})
	want(t, "create", err, storage.ErrClosed)
	_, err = s.Get(s.ctx, "a")
	want(t, "get", err, storage.ErrClosed)
	_, err = s.List(s.ctx)
	want(t, "list", err, storage.ErrClosed)
	_, err = s.Usage(s.ctx)
	want(t, "usage", err, storage.ErrClosed)
	want(t, "delete", s.Delete(s.ctx, "a"), storage.ErrClosed)
}
