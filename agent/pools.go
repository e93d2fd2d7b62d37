package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
	"virtmesh/storage"
	"virtmesh/storage/dir"
)

// openPools opens the pools of the host's configuration. One whose directory is
// not there any more, such as one that is not mounted, is left out with the
// reason: the agent has guests to look after that do not need it.
func (h *host) openPools(a *Agent, uid, gid int, log *slog.Logger) (pools map[string]storage.Pool, unusable map[string]error, err error) {
	known := filepath.Join(h.config.StateDir, "known-pools")
	if err := os.MkdirAll(known, 0o700); err != nil {
		return nil, nil, fmt.Errorf("remember the pools: %w", err)
	}
	pools, unusable = map[string]storage.Pool{}, map[string]error{}
	for _, pool := range h.config.Pools {
		cfg := dir.DefaultConfig(pool.Name, pool.Path)
		cfg.Host, cfg.Shared, cfg.UID, cfg.GID, cfg.Log = h.config.Name, pool.Shared, uid, gid, log
		cfg.Memory = filepath.Join(known, pool.Name)
		opened, err := dir.Open(cfg)
		if errors.Is(err, storage.ErrUnavailable) {
			log.Error("a pool cannot be used until the agent is restarted", "pool", pool.Name, "err", err)
			unusable[pool.Name] = err
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("pool %s: %w", pool.Name, err)
		}
		a.onStop(func(context.Context) { opened.Close() })
		pools[pool.Name] = opened
	}
	return pools, unusable, nil
}

// removed tells whether a host is a member no more. The local replica is asked
// first: mostly the host is there, and it is only late in showing who went.
func (h *host) removed(ctx context.Context, name string) (bool, error) {
	hosts := identity.NewHosts(h.raft)
	for _, consistency := range []raftstore.ReadOptions{{Consistency: raftstore.Local}, {}} {
		switch _, err := hosts.Get(ctx, name, consistency); {
		case err == nil:
			return false, nil
		case !errors.Is(err, identity.ErrNoHost):
			return false, err
		}
	}
	return true, nil
}
