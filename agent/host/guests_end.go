package host

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/libvirt"
	"virtmesh/agent/host/shutdown"
)

const (
	// expelledLimit bounds how long the guests of an expelled host may take to shut down: the
	// mesh may have started their machines elsewhere, so it is not what they ask for.
	expelledLimit = 5 * time.Minute
	// endedAtOnce is how many guests shut down at the same time.
	endedAtOnce = 32
	// absencePatience is how long a shutdown of the host waits for a hypervisor that does not
	// answer, endPause the time between two attempts, and lastPatience what the attempts may
	// take beyond the guests' time, for emulators that hang.
	absencePatience = 30 * time.Second
	endPause        = 2 * time.Second
	lastPatience    = 2 * time.Minute
)

// EndGuests ends the guests of a host that was expelled from its mesh, and returns nil when none
// is left. Their disks and the definitions of their domains stay. No agent may look after them
// meanwhile.
func EndGuests(ctx context.Context, config Config, log *slog.Logger) error {
	return onGuests(ctx, config, log, func(guests hypervisor.Hypervisor, log *slog.Logger) error {
		return shutdown.Run(ctx, shutdown.Config{Guests: guests, Limit: expelledLimit, AtOnce: endedAtOnce, Frozen: executor.IsFrozen, Logger: log})
	})
}

// ShutDownGuests ends the guests of a host that is being shut down, within the time that config
// sets, and records it with their domains for the agent that runs after the next boot. No agent
// may look after them meanwhile: it would take them for guests that ended by themselves.
func ShutDownGuests(ctx context.Context, config Config, log *slog.Logger) error {
	return onGuests(ctx, config, log, func(guests hypervisor.Hypervisor, log *slog.Logger) error {
		return endWithHost(ctx, guests, config.Hypervisor.shutdownLimit(), log)
	})
}

// onGuests calls end with the guests of this host, which no agent looks after. A witness has none.
func onGuests(ctx context.Context, config Config, log *slog.Logger, end func(hypervisor.Hypervisor, *slog.Logger) error) error {
	if config.Role == RoleWitness {
		return nil
	}
	driver, err := openDriver(ctx, config.Hypervisor, func() bool { return false }, log)
	if err != nil {
		return err
	}
	defer driver.Close()
	return end(driver, log.With("part", "shutdown"))
}

// endWithHost ends guests and tries again what fails, for a bounded time.
func endWithHost(ctx context.Context, guests hypervisor.Hypervisor, limit time.Duration, log *slog.Logger) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit+lastPatience)
	defer cancel()
	cfg := shutdown.Config{Guests: guests, AtOnce: endedAtOnce, Frozen: executor.IsFrozen, Logger: log, Ended: func(ctx context.Context, guest hypervisor.Domain, powerCut bool) {
		name, value, due := executor.HostEnd(guest, powerCut)
		if !due {
			return
		}
		if err := guests.SetRecord(ctx, guest.Owner.Ref, name, value); err != nil {
			log.Warn("it is not recorded that the guest was shut down with its host", "instance", guest.Owner.Ref, "err", err)
		}
	}}
	for {
		cfg.Limit = max(limit-time.Since(began), time.Millisecond)
		err := shutdown.Run(ctx, cfg)
		if err == nil {
			return nil
		}
		absent := errors.Is(err, hypervisor.ErrUnavailable) && time.Since(began) > absencePatience
		if absent || ctx.Err() != nil {
			return err
		}
		log.Warn("guests still run", "err", err, "retryIn", endPause)
		select {
		case <-ctx.Done():
		case <-time.After(endPause):
		}
	}
}

func openDriver(ctx context.Context, config HypervisorConfig, emulated func() bool, log *slog.Logger) (*libvirt.Driver, error) {
	cfg := libvirt.DefaultConfig()
	cfg.URI, cfg.Emulated = config.URI, emulated
	cfg.Logger = log.With("part", "libvirt")
	return libvirt.New(ctx, cfg)
}
