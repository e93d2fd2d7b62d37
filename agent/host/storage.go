package host

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/firmware"
	"virtmesh/agent/host/reserve"
	"virtmesh/agent/host/volumes"
	"virtmesh/agent/objects"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/ephemeral"
	"virtmesh/storage/fetch"
)

// openStorage opens the images, the pools, the disks of instances, and what TPMs and
// firmware keep.
func (h *Host) openStorage(ctx context.Context, config Config, deps Deps) error {
	_, group, err := qemuUser(config.Hypervisor.User)
	if err != nil {
		return err
	}
	h.reserve, err = reserve.New(deps.Self.StateDir, config.Capacity.ReservedDiskBytes, deps.Logger.With("part", "disk"), deps.Metrics)
	if err != nil {
		return err
	}
	cfg := containerdisk.DefaultConfig(filepath.Join(deps.Self.StateDir, "images"))
	cfg.MinFreeBytes = h.reserve.Bytes()
	cfg.MaxBytes, cfg.InsecureRegistries, cfg.InternalRegistries = config.Images.MaxBytes, config.Images.InsecureRegistries, config.Images.InternalRegistries
	closed := config.Network.protection(deps.Mesh)
	cfg.Check = fetch.Guard{Closed: closed.Closed, Allowed: closed.AllowedNetworks}.Check
	cfg.GID, cfg.Log, cfg.Registerer = group, deps.Logger.With("part", "images"), deps.Metrics
	images, err := containerdisk.New(cfg)
	if err != nil {
		return fmt.Errorf("open the image cache: %w", err)
	}
	h.onClose(func() { images.Close() })
	log := deps.Logger.With("part", "volumes")
	converters := config.Hypervisor.converters(uint32(group))
	h.pools, err = openPools(ctx, poolOptions{
		pools: config.Pools, host: deps.Self.Name, stateDir: deps.Self.StateDir, converters: converters, log: log,
		promised: deps.Claims.SpaceOn, reserve: config.Capacity.ReservedDiskBytes, nodes: objects.For[*corev1.Node](deps.Cache), events: deps.Recorder,
	})
	if err != nil {
		return err
	}
	h.onClose(h.pools.Close)
	h.disks = disks{h.reserve, h.pools, config.Capacity.ReservedDiskBytes}
	if err := deps.Metrics.Register(h.pools); err != nil {
		return fmt.Errorf("count what the pools do: %w", err)
	}
	if h.firmware, err = firmware.Open(filepath.Join(deps.Self.StateDir, "machines"), h.platform.hypervisor); err != nil {
		return err
	}
	h.provisioner = volumes.NewProvisioner(volumes.ProvisionerConfig{
		Host: deps.Self.Name, Store: deps.Store, Confirm: deps.Confirm, Cache: deps.Cache, Pools: h.pools.Pools, Unusable: h.pools.Unusable, Images: images, States: h.firmware,
		Removed: deps.Mesh.Removed, Mine: func(key objects.Key) bool { return deps.Stewardship.Mine("claims", key) },
		Events: deps.Recorder, Logger: log,
	})
	scratch := ephemeral.DefaultConfig(filepath.Join(deps.Self.StateDir, "instances"))
	scratch.GID, scratch.Log = group, log
	scratch.Users = config.Hypervisor.guestUIDs()
	disks, err := ephemeral.New(scratch)
	if err != nil {
		return fmt.Errorf("open the disks of instances: %w", err)
	}
	h.volumes = volumes.New(volumes.Config{Store: deps.Store, Secrets: deps.Secrets, Images: images, Disks: disks, Claims: h.provisioner, Group: uint32(group), LetPass: passageOf(uint32(group), log), Room: h.reserve.Check, Events: deps.Recorder})
	return nil
}
