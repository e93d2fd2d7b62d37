package netplug

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrUnsupported is returned by a Kernel for an operation that the kernel was built
// without.
var ErrUnsupported = errors.New("this kernel does not support it")

// ErrClosed is returned by a Plug after Close.
var ErrClosed = errors.New("netplug is closed")

// Kernel observes and changes the host's network for netplug. Package netplug/kernel is
// the real implementation, and netplugtest has one in memory; both pass
// netplugtest.TestKernel.
type Kernel interface {
	// Observe returns the state of the host, with the values of those of the sysctls that
	// exist. It changes nothing.
	Observe(ctx context.Context, sysctls []string) (World, error)
	// Do makes one change, as a whole or not at all. The error wraps ErrUnsupported if
	// the kernel can never make the change. A Plug never calls Do concurrently.
	Do(ctx context.Context, op Op) error
	// WatchFilter calls changed once when it begins to watch, and then after any change to
	// the loaded filter, also one that Do made, until ctx ends. Changes while changed runs
	// are told by one more call. An error says that it does not watch any more.
	WatchFilter(ctx context.Context, changed func()) error
}

// Config configures a Plug.
type Config struct {
	Kernel     Kernel
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// ResolvConf is the path of the file that lists the host's upstream name servers.
	ResolvConf string
	// Services answer the guests' DHCP and DNS requests; nil does it in this process.
	Services Services
}

// DefaultConfig returns a Config that lacks only a Kernel.
func DefaultConfig() Config {
	return Config{Logger: slog.Default(), ResolvConf: "/etc/resolv.conf"}
}

// Validate returns an error for a missing field.
func (c Config) Validate() error {
	switch {
	case c.Kernel == nil:
		return errors.New("netplug: Kernel is missing")
	case c.Logger == nil:
		return errors.New("netplug: Logger is missing")
	}
	return nil
}

// Plug makes the host's network match a Want. Its methods may be called concurrently.
type Plug struct {
	cfg     Config
	metrics *metrics

	mu sync.Mutex
	// noUpstreams is why the last Set found no upstream name servers. A reason is logged
	// only when it changes.
	noUpstreams string
	// busy are the links that the last Set found busy, so that each is logged only once.
	busy []string
	// filter is the fingerprint of the filter that the last Set wanted; empty before the
	// first.
	filter string
	closed bool
}

// New returns a Plug. It changes nothing on the host before the first Set.
func New(cfg Config) (*Plug, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	if cfg.Services == nil {
		if cfg.Services, err = serversHere(cfg); err != nil {
			return nil, err
		}
	}
	return &Plug{cfg: cfg, metrics: m}, nil
}

// Result says what a Set planned and which parts failed.
type Result struct {
	// Plan is what Set had to do; it is empty if the host was as wanted.
	Plan Plan
	// Failed holds the errors of the parts that are not as wanted, by subject: "bridge
	// br1", "tap vm-abc", "packet filter", "dhcp vm-pod", "guest services".
	Failed map[string]error
	// FilterLost says that something else changed or removed the packet filter after the
	// last Set.
	FilterLost bool
}

// Tap returns the error why the named tap cannot be used, nil if it is ready.
func (r Result) Tap(name string) error { return r.Failed[tapSubject(name)] }

// Set makes the host's network match the want. The want is whole: what is ours and not in
// it is removed. It is safe to call again with the same want, which does nothing, or
// after an error, which goes on with what is left.
//
// A want that is not valid changes nothing, and the error holds a *FieldError for each
// fault. Otherwise Set does all it can; the error joins those of Result.Failed.
func (p *Plug) Set(ctx context.Context, w Want) (Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return Result{}, ErrClosed
	}
	begin := time.Now()
	res, err := p.setNetwork(ctx, w)
	took := time.Since(begin)
	p.metrics.observeSet(took, w, res, err)
	if n := len(res.Plan.Steps); n > 0 {
		p.cfg.Logger.Info("network set", "steps", n, "failed", len(res.Failed), "took", took)
	}
	return res, err
}

func (p *Plug) setNetwork(ctx context.Context, w Want) (Result, error) {
	if err := w.Validate(); err != nil {
		return Result{}, fmt.Errorf("network is not valid: %w", err)
	}
	have, err := p.cfg.Kernel.Observe(ctx, sysctlKeys(w))
	if err != nil {
		return Result{}, fmt.Errorf("observe network: %w", err)
	}
	res := Result{Plan: PlanFor(w, have)}
	res.FilterLost = p.filter != "" && have.Filter != p.filter
	if res.FilterLost {
		p.metrics.filterLost.Inc()
		p.cfg.Logger.Warn("something else changed or removed the packet filter of the guests, which is loaded anew", "filter", cmp.Or(have.Filter, "removed"))
	}
	res.Failed = p.applyPlan(ctx, res.Plan)
	if p.filter = res.Plan.Filter; res.Failed[subjectFilter] != nil {
		p.filter = have.Filter
	}
	if ctx.Err() == nil {
		maps.Copy(res.Failed, p.cfg.Services.Set(ctx, p.stateOf(w)))
	}
	for _, name := range res.Plan.Busy {
		if !slices.Contains(p.busy, name) {
			p.cfg.Logger.Warn("link is no longer wanted but in use, so it is kept", "link", name)
		}
	}
	p.busy = res.Plan.Busy
	return res, joinFailed(res.Failed)
}

// WatchFilter calls changed when it begins, and then after each change to the packet filter,
// those of Set among them, until ctx ends. The caller should call Set then, which mends what
// is not as wanted. An error says that it does not watch any more.
func (p *Plug) WatchFilter(ctx context.Context, changed func()) error {
	return p.cfg.Kernel.WatchFilter(ctx, changed)
}

// Close ends the DHCP and DNS servers of this process, if there are any, and waits for them.
// The network stays as it is.
func (p *Plug) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return p.cfg.Services.Close()
}
