// Package reserve keeps room on the file system of the host's own state: the copy of the
// mesh's state, the host's identity, and by default the disks of guests. While less than
// the reserve is free, nothing new that takes room begins there, and the Node says so. What
// runs goes on: a guest that finds no room for what it writes is paused by the hypervisor.
//
// It is a threshold, and so a warning ahead of time. What the host cannot do without when
// the disk is full all the same has room of its own, see raftstore.Limits.BallastFiles.
package reserve

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"virtmesh/storage"
)

// Interval is how often Run looks how much is free.
const Interval = 5 * time.Second

// Reasons of the condition, as Kubernetes names them.
const (
	reasonPressure   = "HostHasDiskPressure"
	reasonNoPressure = "HostHasNoDiskPressure"
)

// Reserve watches one file system. Its methods may be called at once.
type Reserve struct {
	dir   string
	bytes int64
	log   *slog.Logger
	free  prometheus.Gauge

	mu    sync.Mutex
	short bool
	keeps int64 // what is kept free of this file system
}

// New returns a Reserve of bytes on the file system of dir, which has looked once. A nil
// registerer gets no metrics.
func New(dir string, bytes int64, log *slog.Logger, registerer prometheus.Registerer) (*Reserve, error) {
	r := &Reserve{dir: dir, bytes: bytes, log: log, free: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "virtmesh_state_disk_free_bytes", Help: "Free space in the file system of the host's own state.",
	})}
	if registerer != nil {
		if err := registerer.Register(r.free); err != nil {
			return nil, fmt.Errorf("measure the disk of the host's state: %w", err)
		}
	}
	r.look()
	return r, nil
}

// Run looks again and again until ctx ends.
func (r *Reserve) Run(ctx context.Context) error {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			r.look()
		}
	}
}

// look measures the file system. It is short of room from when less than the reserve is
// free until a quarter more than the reserve is, so that it does not go to and fro.
func (r *Reserve) look() {
	space, err := measure(r.dir)
	if err != nil {
		r.log.Warn("the disk of the host's state cannot be measured", "err", err)
		return
	}
	r.free.Set(float64(space.Free))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeps = space.Reserve(r.bytes)
	enough := r.keeps
	if r.short {
		enough += enough / 4
	}
	if short := space.Free < enough; short != r.short {
		r.short = short
		r.log.Warn("the room on the disk of the host's state has changed", "short", short, "free", space.Free, "reserve", r.keeps)
	}
}

// Check returns storage.ErrNoSpace if less than the reserve is free now, so that nothing
// new should begin to take room.
func (r *Reserve) Check() error {
	space, err := measure(r.dir)
	if err != nil {
		return nil // who then writes learns it
	}
	if keep := space.Reserve(r.bytes); space.Free < keep {
		return fmt.Errorf("%w: of %s, %d MiB are free, and %d MiB are kept for the host itself", storage.ErrNoSpace, r.dir, space.Free>>20, keep>>20)
	}
	return nil
}

// Space measures the file system.
func (r *Reserve) Space() (storage.Space, error) { return measure(r.dir) }

// Bytes returns how much is kept free of this file system.
func (r *Reserve) Bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keeps
}

// Condition tells on the host's Node whether the room runs out.
func (r *Reserve) Condition() corev1.NodeCondition {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.short {
		return corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: reasonNoPressure, Message: "The disk of the host's state has room"}
	}
	return corev1.NodeCondition{
		Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, Reason: reasonPressure,
		Message: fmt.Sprintf("less than %d MiB are free in %s: nothing new that takes room begins on the host until there is more", r.keeps>>20, r.dir),
	}
}

func measure(dir string) (storage.Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return storage.Space{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	var info unix.Stat_t
	if err := unix.Stat(dir, &info); err != nil {
		return storage.Space{}, fmt.Errorf("file system of %s: %w", dir, err)
	}
	return storage.Space{Capacity: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize, Device: info.Dev}, nil
}
