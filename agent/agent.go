package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"virtmesh/agent/api"
	"virtmesh/agent/api/audit"
	"virtmesh/agent/heap"
	"virtmesh/agent/host"
	"virtmesh/agent/membership"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/guests"
	"virtmesh/agent/stewards"
)

// Options are the parameters of an agent that are not part of its host's
// configuration.
type Options struct {
	// Version is the program's version. It is reported to other hosts.
	Version string
	// ConfigPath is the file that the configuration came from; it is removed
	// when the host leaves its mesh.
	ConfigPath string
	// Logger receives all log messages of the agent.
	Logger *slog.Logger
}

// shutdownTimeout bounds how long a stopping agent hands over and drains.
const shutdownTimeout = 15 * time.Second

// Agent is the agent of one host. New starts it; Run serves until it stops.
type Agent struct {
	config  Config
	options Options
	log     *slog.Logger
	metrics *prometheus.Registry
	meter   *objects.Meter

	member *membership.Member
	view   view
	host   *host.Host
	router *guests.Router
	loops  []stewards.Loop
	audit  *audit.Log
	api    *api.Server
	http   port.HTTPServers

	// closers undo the steps of the start, in reverse order.
	closers []func(context.Context)
}

// New starts an agent. A problem that can be found at once makes it return an
// error. ctx bounds the start, which lasts until this host has a copy of the
// mesh's state. On an error nothing is left running.
func New(ctx context.Context, config Config, options Options) (_ *Agent, err error) {
	a := &Agent{config: config, options: options, log: options.Logger, metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			a.Shutdown()
		}
	}()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.meter, err = objects.NewMeter(a.metrics); err != nil {
		return nil, part("count writes", err)
	}
	for _, step := range []func(context.Context) error{
		a.joinMesh, a.openView, a.openHost, a.openRouter, a.addLoops, a.serveHosts, a.openAudit, a.openAPI, a.serveUsers,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	a.log.Info("agent started", "host", config.Name, "mesh", a.member.Identity().MeshID(), "addr", config.MeshAddress(), "version", options.Version)
	return a, nil
}

// onStop remembers how to undo a step of the start.
func (a *Agent) onStop(undo func(context.Context)) { a.closers = append(a.closers, undo) }

// Run serves until ctx ends, this host leaves the mesh, or a part fails that
// the agent cannot do without. It stops the agent before it returns.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.member.Run(groupCtx) })
	group.Go(func() error { return stewards.RunLoops(groupCtx, a.loops) })
	group.Go(func() error { return a.http.Run(groupCtx, a.api.Run) })
	group.Go(func() error { return notifyServiceManager(groupCtx, a.member.Err) })
	group.Go(func() error { heap.Keep(groupCtx); return nil })
	err := group.Wait()
	a.log.Info("agent stopping", "cause", errors.Join(err, context.Cause(ctx)))
	a.Shutdown()
	if errors.Is(err, membership.ErrLeft) {
		return errors.Join(host.EndGuestServices(a.config.RunDir), a.member.Forget())
	}
	return err
}

// Shutdown undoes the start in reverse. Run does it too; it may be called again.
func (a *Agent) Shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	for _, undo := range slices.Backward(a.closers) {
		undo(ctx)
	}
	a.closers = nil
}

// SetLibraryLogger sends what libraries log on their own to log, for the whole
// program. It must be called before New.
func SetLibraryLogger(log *slog.Logger) { api.SetLibraryLogger(log) }

// part names the failed step of the start in its error.
func part(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
