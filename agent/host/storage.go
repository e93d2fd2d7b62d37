package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"virtmesh/agent/host/firmware"
	"virtmesh/agent/host/volumes"
	"virtmesh/agent/objects"
	"virtmesh/storage"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/dir"
	"virtmesh/storage/ephemeral"
)

// openStorage opens the images, the pools, the disks of instances, and what TPMs and
// firmware keep.
func (h *Host) openStorage(config Config, deps Deps) error {
	owner, group, err := qemuUser(config.Hypervisor.User)
	if err != nil {
		return err
	}
	cfg := containerdisk.DefaultConfig(filepath.Join(deps.Self.StateDir, "images"))
	cfg.MaxBytes, cfg.InsecureRegistries = config.Images.MaxBytes, config.Images.InsecureRegistries
	cfg.GID, cfg.Log, cfg.Registerer = group, deps.Logger.With("part", "images"), deps.Metrics
	images, err := containerdisk.New(cfg)
	if err != nil {
		return fmt.Errorf("open the image cache: %w", err)
	}
	h.onClose(func() { images.Close() })
	log := deps.Logger.With("part", "volumes")
	pools, unusable, err := openPools(poolOptions{
		pools: config.Pools, host: deps.Self.Name, stateDir: deps.Self.StateDir, uid: owner, gid: group, log: log,
	})
	for _, pool := range pools {
		h.onClose(func() { pool.Close() })
	}
	if err != nil {
		return err
	}
	if h.firmware, err = firmware.Open(filepath.Join(deps.Self.StateDir, "machines"), h.machine.hypervisor); err != nil {
		return err
	}
	h.provisioner = volumes.NewProvisioner(volumes.ProvisionerConfig{
		Host: deps.Self.Name, Store: deps.Store, Cache: deps.Cache, Pools: pools, Unusable: unusable, Images: images, States: h.firmware,
		Removed: deps.Mesh.Removed, Mine: func(key objects.Key) bool { return deps.Stewardship.Mine("claims", key) },
		Events: deps.Recorder, Logger: log,
	})
	scratch := ephemeral.DefaultConfig(filepath.Join(deps.Self.StateDir, "instances"))
	scratch.UID, scratch.GID, scratch.Log = owner, group, log
	disks, err := ephemeral.New(scratch)
	if err != nil {
		return fmt.Errorf("open the disks of instances: %w", err)
	}
	h.volumes = volumes.New(volumes.Config{Store: deps.Store, Images: images, Disks: disks, Claims: h.provisioner, Events: deps.Recorder})
	return nil
}

// poolOptions say which pools are opened, and whose the files in them are.
type poolOptions struct {
	pools          []PoolConfig
	host, stateDir string
	uid, gid       int
	log            *slog.Logger
}

// openPools opens the pools of the host's configuration. A pool whose directory is
// missing, for example because it is not mounted, is left out, and the reason is
// returned: the agent must still look after guests that do not need the pool. The
// caller closes the pools, also when an error is returned.
func openPools(options poolOptions) (pools map[string]storage.Pool, unusable map[string]error, err error) {
	known := filepath.Join(options.stateDir, "known-pools")
	if err := os.MkdirAll(known, 0o700); err != nil {
		return nil, nil, fmt.Errorf("remember the pools: %w", err)
	}
	pools, unusable = map[string]storage.Pool{}, map[string]error{}
	for _, pool := range options.pools {
		cfg := dir.DefaultConfig(pool.Name, pool.Path)
		cfg.Host, cfg.Shared, cfg.UID, cfg.GID, cfg.Log = options.host, pool.Shared, options.uid, options.gid, options.log
		cfg.Memory = filepath.Join(known, pool.Name)
		opened, err := dir.Open(cfg)
		if errors.Is(err, storage.ErrUnavailable) {
			options.log.Error("a pool cannot be used until the agent is restarted", "pool", pool.Name, "err", err)
			unusable[pool.Name] = err
			continue
		}
		if err != nil {
			return pools, nil, fmt.Errorf("pool %s: %w", pool.Name, err)
		}
		pools[pool.Name] = opened
	}
	return pools, unusable, nil
}
