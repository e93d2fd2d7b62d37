package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/storage"
	"virtmesh/storage/dir"
)

// conditionPools tells whether the host can use all pools of its configuration.
const conditionPools corev1.NodeConditionType = "PoolsUsable"

// poolRetry is how often a pool that could not be opened is tried again.
const poolRetry = 15 * time.Second

// poolSet holds the pools of the host's configuration. A pool that cannot be opened,
// because it is not mounted, read-only, full or damaged, costs the host that pool and
// not its agent, which must still look after the guests that do not need the pool.
// poolSet keeps the reason and tries again.
type poolSet struct {
	configs []dir.Config
	log     *slog.Logger

	mu       sync.Mutex
	closed   bool
	open     map[string]storage.Pool
	unusable map[string]error
}

// poolOptions say which pools are opened, and whose the files in them are.
type poolOptions struct {
	pools          []PoolConfig
	host, stateDir string
	uid, gid       int
	log            *slog.Logger
}

// configOf returns the configuration of one pool.
func (o poolOptions) configOf(pool PoolConfig) dir.Config {
	cfg := dir.DefaultConfig(pool.Name, pool.Path)
	cfg.Host, cfg.Shared, cfg.UID, cfg.GID, cfg.Log = o.host, pool.Shared, o.uid, o.gid, o.log
	cfg.Memory = filepath.Join(knownPools(o.stateDir), pool.Name)
	return cfg
}

// knownPools is the directory in which the host remembers which pools it has seen.
func knownPools(stateDir string) string { return filepath.Join(stateDir, "known-pools") }

// openPools opens the pools of the host's configuration. The caller closes the set.
func openPools(options poolOptions) (*poolSet, error) {
	if err := os.MkdirAll(knownPools(options.stateDir), 0o700); err != nil {
		return nil, fmt.Errorf("remember the pools: %w", err)
	}
	s := &poolSet{log: options.log, open: map[string]storage.Pool{}, unusable: map[string]error{}}
	for _, pool := range options.pools {
		s.configs = append(s.configs, options.configOf(pool))
	}
	s.openMissing()
	return s, nil
}

// openMissing opens the pools that are not open.
func (s *poolSet) openMissing() {
	for _, cfg := range s.configs {
		s.mu.Lock()
		skip := s.closed || s.open[cfg.Name] != nil
		s.mu.Unlock()
		if skip {
			continue
		}
		pool, err := dir.Open(cfg)
		s.mu.Lock()
		switch before := s.unusable[cfg.Name]; {
		case err == nil && s.closed:
			pool.Close()
		case err == nil:
			s.open[cfg.Name] = pool
			delete(s.unusable, cfg.Name)
			if before != nil {
				s.log.Info("a pool can be used again", "pool", cfg.Name)
			}
		case !sameReason(before, err):
			s.unusable[cfg.Name] = err
			s.log.Error("a pool cannot be used; it is tried again", "pool", cfg.Name, "err", err)
		}
		s.mu.Unlock()
	}
}

// sameReason reports whether two failures have one cause. Their texts may differ by the
// names of temporary files, and each new text would be a write to the mesh.
func sameReason(a, b error) bool {
	var first, second syscall.Errno
	if errors.As(a, &first) && errors.As(b, &second) {
		return first == second
	}
	return a != nil && b != nil && a.Error() == b.Error()
}

// Run tries again, until ctx ends, to open the pools that cannot be used.
func (s *poolSet) Run(ctx context.Context) error {
	tick := time.NewTicker(poolRetry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			s.openMissing()
		}
	}
}

// Pools returns the pools that can be used, by name.
func (s *poolSet) Pools() map[string]storage.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.open)
}

// Unusable returns why a pool of the configuration cannot be used, nil if it can be.
func (s *poolSet) Unusable(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unusable[name]
}

// condition tells on the host's Node which pools cannot be used, and why.
func (s *poolSet) condition() corev1.NodeCondition {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unusable) == 0 {
		return corev1.NodeCondition{Type: conditionPools, Status: corev1.ConditionTrue, Reason: "PoolsOpen", Message: "All pools of the host can be used"}
	}
	var reasons []string
	for _, name := range slices.Sorted(maps.Keys(s.unusable)) {
		reasons = append(reasons, s.unusable[name].Error())
	}
	return corev1.NodeCondition{Type: conditionPools, Status: corev1.ConditionFalse, Reason: "PoolUnavailable", Message: strings.Join(reasons, "; ")}
}

// Close closes the pools.
func (s *poolSet) Close() {
	s.mu.Lock()
	s.closed = true
	open := maps.Clone(s.open)
	s.mu.Unlock()
	for _, pool := range open {
		pool.Close()
	}
}

// CheckPool returns why a host whose agent is not asked could not use a pool of its
// configuration, nil if nothing is in the way. It changes nothing.
func CheckPool(pool PoolConfig, stateDir string) error {
	// A machine that is not in a mesh has no name yet; it only marks unfinished work.
	const anyName = "host"
	return dir.Check(poolOptions{host: anyName, stateDir: stateDir, uid: -1, gid: -1, log: slog.New(slog.DiscardHandler)}.configOf(pool))
}
