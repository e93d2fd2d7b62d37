package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"virtmesh/agent/membership"
)

// notifyServiceManager tells systemd that the agent is ready, then that it is
// alive as long as healthy returns true, and finally that it is stopping. The agent of a host
// that was expelled goes on, see Retire.
func notifyServiceManager(ctx context.Context, healthy func() error) error {
	defer func() {
		if !errors.Is(context.Cause(ctx), membership.ErrExpelled) {
			daemon.SdNotify(false, daemon.SdNotifyStopping)
		}
	}()
	return notifyAlive(ctx, healthy)
}

// notifyAlive tells systemd that the agent is up and, until ctx ends, that it is
// alive. Without systemd it only waits.
func notifyAlive(ctx context.Context, healthy func() error) error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		<-ctx.Done()
		return err
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if healthy() == nil {
				daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}
	}
}
