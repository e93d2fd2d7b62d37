package host

import (
	"context"
	"log/slog"
	"time"

	"virtmesh/agent/host/hypervisor/libvirt"
	"virtmesh/agent/host/shutdown"
)

const (
	// expelledLimit bounds how long the guests of an expelled host may take to shut down: the
	// mesh may have started their machines elsewhere, so it is not what they ask for.
	expelledLimit = 5 * time.Minute
	// endedAtOnce is how many guests shut down at the same time.
	endedAtOnce = 32
)

// EndGuests ends the guests of a host that was expelled from its mesh, and returns nil when none
// is left. Their disks and the definitions of their domains stay. No agent may look after them
// meanwhile.
func EndGuests(ctx context.Context, config Config, log *slog.Logger) error {
	if config.Role == RoleWitness {
		return nil
	}
	driver, err := openDriver(ctx, config.Hypervisor, func() bool { return false }, log)
	if err != nil {
		return err
	}
	defer driver.Close()
	return shutdown.Run(ctx, shutdown.Config{Guests: driver, Limit: expelledLimit, AtOnce: endedAtOnce, Logger: log.With("part", "shutdown")})
}

func openDriver(ctx context.Context, config HypervisorConfig, emulated func() bool, log *slog.Logger) (*libvirt.Driver, error) {
	cfg := libvirt.DefaultConfig()
	cfg.URI, cfg.Emulated = config.URI, emulated
	cfg.Logger = log.With("part", "libvirt")
	return libvirt.New(ctx, cfg)
}
