package agent

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/host"
	"virtmesh/agent/membership"
)

// Retire is what is left to do on a host that its mesh has expelled, after New or Run has
// returned membership.ErrExpelled: it ends the host's guests, and tells who asks until ctx ends.
func Retire(ctx context.Context, config Config, options Options) error {
	return membership.Retire(ctx, config.MembershipConfig, membership.Options{
		Version: options.Version, ConfigPath: options.ConfigPath, Logger: options.Logger, Metrics: prometheus.NewRegistry(), NotifyAlive: notifyAlive,
	}, func(ctx context.Context) error { return host.EndGuests(ctx, config.HostConfig, options.Logger) })
}
