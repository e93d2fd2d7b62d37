package storagetest

import (
	"os"
	"path/filepath"
	"testing"

	"virtmesh/storage"
)

// sourceFile makes a raw disk image with data at an offset.
func sourceFile(t *testing.T, size int64, data string, off int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "source.img")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(data), off); err != nil {
		t.Fatal(err)
	}
	return p
}

func testFromFile(t *testing.T, s *suite) {
	src := sourceFile(t, 3*mib, "first content", 2*mib)
	for _, f := range s.formats() {
		for name, size := range map[string]int64{"same": 0, "larger": 5 * mib} {
			var last, total int64
			v := s.make(t, storage.VolumeSpec{Name: name + "-" + string(f), Size: size, Format: f,
				Source:   &storage.Source{File: src, FileFormat: storage.Raw},
				Progress: func(d, n int64) { last, total = d, n }})
			if v.Size != max(size, 3*mib) {
				t.Errorf("%s %s: size %d", name, f, v.Size)
			}
			if got := s.ReadAt(t, v, 13, 2*mib); string(got) != "first content" {
				t.Errorf("%s %s: read %q", name, f, got)
			}
			if last == 0 || last != total {
				t.Errorf("%s %s: progress ended at %d of %d", name, f, last, total)
			}
		}
	}
}

func testFromBadFile(t *testing.T, s *suite) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("not an image at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		src  storage.Source
		want error
	}{
		"missing":   {storage.Source{File: "/no/such/file", FileFormat: storage.Raw}, storage.ErrNotFound},
		"no qcow2":  {storage.Source{File: text, FileFormat: storage.QCOW2}, storage.ErrUnsafeSource},
		"empty raw": {storage.Source{File: empty, FileFormat: storage.Raw}, storage.ErrUnsafeSource},
	} {
		_, err := s.Create(s.ctx, storage.VolumeSpec{Name: "new", Size: 9 * mib, Source: &c.src})
		want(t, name, err, c.want)
		_, err = s.Get(s.ctx, "new")
		want(t, name+", afterwards", err, storage.ErrNotFound)
	}
}

func testFromVolume(t *testing.T, s *suite) {
	for _, from := range s.formats() {
		src := s.make(t, storage.VolumeSpec{Name: "src-" + string(from), Size: 2 * mib, Format: from})
		s.WriteAt(t, src, []byte("original"), mib)
		for _, to := range s.formats() {
			v := s.make(t, storage.VolumeSpec{Name: string(from) + "-" + string(to), Size: 4 * mib, Format: to,
				Source: &storage.Source{Volume: src.Name}})
			if got := s.ReadAt(t, v, 8, mib); string(got) != "original" || v.Size != 4*mib {
				t.Errorf("%s to %s: %+v with %q", from, to, v, got)
			}
			s.WriteAt(t, v, []byte("changed!"), mib)
			if got := s.ReadAt(t, src, 8, mib); string(got) != "original" {
				t.Errorf("%s to %s: a write to the copy reached the source: %q", from, to, got)
			}
		}
	}
}

func testCloneOutlives(t *testing.T, s *suite) {
	src := s.make(t, storage.VolumeSpec{Name: "src", Size: 2 * mib})
	s.WriteAt(t, src, []byte("original"), 0)
	v := s.make(t, storage.VolumeSpec{Name: "copy", Source: &storage.Source{Volume: "src"}})
	if err := s.Delete(s.ctx, "src"); err != nil {
		t.Fatal(err)
	}
	if got := s.ReadAt(t, v, 8, 0); string(got) != "original" {
		t.Errorf("read %q", got)
	}
}
