package reserve

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/storage"
)

// A disk that fills up is told before it is full, and not told to be well again as soon as
// a byte more than the reserve is free.
func TestADiskThatFillsUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	r, err := New(dir, 4<<20, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	guest := filepath.Join(dir, "guest")
	if err := os.WriteFile(guest, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		written  int
		refuses  bool
		pressure corev1.ConditionStatus
	}{
		{0, false, corev1.ConditionFalse},
		{59 << 20, false, corev1.ConditionFalse},
		{61 << 20, true, corev1.ConditionTrue},
		{59<<20 + 512<<10, false, corev1.ConditionTrue},
		{58 << 20, false, corev1.ConditionFalse},
	} {
		if err := os.WriteFile(guest, make([]byte, step.written), 0o600); err != nil {
			t.Fatal(err)
		}
		r.look()
		if err := r.Check(); errors.Is(err, storage.ErrNoSpace) != step.refuses {
			t.Errorf("%d bytes written: %v", step.written, err)
		}
		if got := r.Condition(); got.Type != corev1.NodeDiskPressure || got.Status != step.pressure {
			t.Errorf("%d bytes written: %+v", step.written, got)
		}
	}
}

// A tenth of a small disk is kept, however large the reserve is.
func TestReserveOfASmallDisk(t *testing.T) {
	for _, test := range []struct{ capacity, reserve, want int64 }{
		{1 << 40, 1 << 30, 1 << 30}, {5 << 30, 1 << 30, 512 << 20}, {1 << 40, 0, 0},
	} {
		if got := (storage.Space{Capacity: test.capacity}).Reserve(test.reserve); got != test.want {
			t.Errorf("of %d bytes %d are kept, want %d", test.capacity, got, test.want)
		}
	}
}
