package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/storage"
	"virtmesh/storage/bounded"
	"virtmesh/storage/dir"
	"virtmesh/storage/program"
)

// poolRetry is how often a pool that could not be opened is tried again, and poolWatch how
// often a pool that is open, or does not answer, is asked whether it is there.
const (
	poolRetry = 15 * time.Second
	poolWatch = 5 * time.Second
)

// poolSet holds the pools of the host's configuration. A pool that cannot be opened,
// because it is not mounted, read-only, full or damaged, and a pool whose storage does not
// answer, costs the host that pool and not its agent, which must still look after the
// guests that do not need the pool. poolSet keeps the reason and tries again.
type poolSet struct {
	names []string // in the order of the configuration
	pools map[string]*bounded.Pool
	// shared are those that other hosts have, too.
	shared map[string]bool
	// promised, if set, returns what the volumes on a host take, by pool.
	promised func(host string) map[string]int64
	log      *slog.Logger
	// events, if set, are where the host's Node tells what becomes of the pools.
	host    string
	nodes   *objects.Informer[*corev1.Node]
	events  *objects.Recorder
	metrics poolMetrics
	// changed holds a token after a pool became usable or unusable.
	changed chan struct{}

	mu sync.Mutex
	// unusable says why pools cannot be used, by name, as it was logged.
	unusable map[string]error
}

// poolOptions say which pools are opened, and how.
type poolOptions struct {
	pools          []PoolConfig
	host, stateDir string
	// converters are whom qemu-img runs as; nil is the agent's user.
	converters *program.Users
	log        *slog.Logger
	// nodes and events are for events of the host's Node; there are none if events is nil.
	nodes  *objects.Informer[*corev1.Node]
	events *objects.Recorder
	// promised returns what the volumes on a host take, by pool; nil for nothing.
	promised func(host string) map[string]int64
	// reserve is how many bytes new volumes leave free.
	reserve int64
	// patience is how long a pool may take to answer, by name; the default where there is none.
	patience map[string]time.Duration
}

// configOf returns the configuration of one pool.
func (o poolOptions) configOf(pool PoolConfig) dir.Config {
	cfg := dir.DefaultConfig(pool.Name, pool.Path)
	cfg.Host, cfg.Shared, cfg.Tool.Users, cfg.Log = o.host, pool.Shared, o.converters, o.log
	cfg.Reserve = o.reserve
	cfg.Memory = filepath.Join(knownPools(o.stateDir), pool.Name)
	return cfg
}

// knownPools is the directory in which the host remembers which pools it has seen.
func knownPools(stateDir string) string { return filepath.Join(stateDir, "known-pools") }

// openPools opens the pools of the host's configuration, all at once: a pool that does not
// answer delays the start by a few seconds. The caller closes the set.
func openPools(ctx context.Context, options poolOptions) (*poolSet, error) {
	if err := os.MkdirAll(knownPools(options.stateDir), 0o700); err != nil {
		return nil, fmt.Errorf("remember the pools: %w", err)
	}
	s := &poolSet{
		log: options.log, host: options.host, nodes: options.nodes, events: options.events, metrics: newPoolMetrics(),
		pools: map[string]*bounded.Pool{}, shared: map[string]bool{}, promised: options.promised, unusable: map[string]error{}, changed: make(chan struct{}, 1),
	}
	for _, pool := range options.pools {
		cfg := options.configOf(pool)
		limits := bounded.DefaultConfig(pool.Name, pool.Path)
		limits.Patience = cmp.Or(options.patience[pool.Name], limits.Patience)
		limits.Open = func() (storage.ProbedPool, error) { return dir.Open(cfg) }
		made, err := bounded.New(limits)
		if err != nil {
			return nil, fmt.Errorf("prepare the pools: %w", err)
		}
		s.names, s.pools[pool.Name], s.shared[pool.Name] = append(s.names, pool.Name), made, pool.Shared
	}
	s.tryAll(ctx)
	return s, nil
}

// tryAll finds out for all pools whether they can be used.
func (s *poolSet) tryAll(ctx context.Context) {
	var wg sync.WaitGroup
	for _, name := range s.names {
		wg.Go(func() { s.try(ctx, name) })
	}
	wg.Wait()
}

// try finds out whether a pool can be used. Of a pool, only one call may be under way.
func (s *poolSet) try(ctx context.Context, name string) {
	err := s.pools[name].Try(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch before := s.unusable[name]; {
	case err == nil && before != nil:
		delete(s.unusable, name)
		s.log.Info("a pool can be used again", "pool", name)
	case err != nil && !sameReason(before, err):
		s.unusable[name] = err
		s.log.Error("a pool cannot be used; it is tried again", "pool", name, "err", err)
	default:
		return
	}
	select {
	case s.changed <- struct{}{}:
	default:
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

// Pools returns the pools that can be used, by name.
func (s *poolSet) Pools() map[string]storage.Pool {
	usable := map[string]storage.Pool{}
	for name, pool := range s.pools {
		if pool.Err() == nil {
			usable[name] = pool
		}
	}
	return usable
}

// Space returns the room in the pools that can be used, by name, as it was when they
// answered last. It asks no storage.
func (s *poolSet) Space() map[string]storage.Space {
	room := map[string]storage.Space{}
	for name, pool := range s.pools {
		if pool.Err() == nil {
			room[name] = pool.Space()
		}
	}
	return room
}

// ownSpace returns the room in the pools that no other host has, as it was when they answered
// last, whether they can be used now or not; known is false if one has never answered.
func (s *poolSet) ownSpace() (room map[string]storage.Space, known bool) {
	room = map[string]storage.Space{}
	for name, pool := range s.pools {
		if s.shared[name] {
			continue
		}
		if room[name] = pool.Space(); room[name].Capacity == 0 {
			return nil, false
		}
	}
	return room, true
}

// Unusable returns why a pool of the configuration cannot be used, nil if it can be.
func (s *poolSet) Unusable(name string) error {
	if pool := s.pools[name]; pool != nil {
		return pool.Err()
	}
	return nil
}

// Close closes the pools. It waits a few seconds for calls into them, and for none into a
// pool that does not answer.
func (s *poolSet) Close() {
	var wg sync.WaitGroup
	for name, pool := range s.pools {
		wg.Go(func() {
			if err := pool.Close(); err != nil {
				s.log.Warn("a pool was not closed in good order", "pool", name, "err", err)
			}
		})
	}
	wg.Wait()
}

// CheckPool returns why a host whose agent is not asked could not use a pool of its
// configuration, nil if nothing is in the way. It changes nothing, and waits only a few
// seconds for a pool that does not answer: then the caller should end its process soon.
func CheckPool(pool PoolConfig, stateDir string) error {
	// A machine that is not in a mesh has no name yet; it only marks unfinished work.
	const anyName = "host"
	cfg := poolOptions{host: anyName, stateDir: stateDir, log: slog.New(slog.DiscardHandler)}.configOf(pool)
	err := bounded.Wait(bounded.Patience, func() error { return dir.Check(cfg) })
	if errors.Is(err, bounded.ErrSilent) {
		return fmt.Errorf("pool %s in %s: %w", pool.Name, pool.Path, err)
	}
	return err
}
