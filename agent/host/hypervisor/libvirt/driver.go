package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/broadcast"
)

var _ hypervisor.Hypervisor = (*Driver)(nil)

// Driver is a hypervisor.Hypervisor on one libvirt daemon.
type Driver struct {
	cfg    Config
	log    *slog.Logger
	hub    *broadcast.Hub
	owners *ownerCache
	names  *nameCache
	raw    chan rawEvent // from callbacks to the goroutine that publishes

	stop    context.CancelFunc
	stopped <-chan struct{}
	wg      sync.WaitGroup

	mu     sync.Mutex
	conn   *libvirt.Connect // nil while there is none
	closed bool
	// calls counts the acts under way.
	calls map[string]int
}

// New returns a Driver that connects, and keeps connecting, to cfg.URI. It waits for
// the first connection, but a daemon that is not there yet is no error: calls fail
// with hypervisor.ErrUnavailable until it is.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("libvirt driver: %w", err)
	}
	if err := startLoop(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	life, stop := context.WithCancel(context.Background())
	d := &Driver{
		cfg:     cfg,
		log:     cfg.Logger,
		hub:     broadcast.New(),
		owners:  newOwnerCache(),
		names:   newNameCache(),
		raw:     make(chan rawEvent, rawBacklog),
		calls:   map[string]int{},
		stop:    stop,
		stopped: life.Done(),
	}
	first := make(chan struct{})
	d.wg.Add(2)
	go func() { defer d.wg.Done(); d.keepConnected(life, first) }()
	go func() { defer d.wg.Done(); d.publish(life) }()

	timer := time.NewTimer(cfg.ConnectTimeout)
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), d.Close())
	}
	return d, nil
}

// Close implements hypervisor.Hypervisor. Calls under way end first, but libvirt's
// cannot be interrupted, and a daemon that hangs never answers them: after
// Config.CloseTimeout they are left to the end of the process. The error names them.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	d.hub.Close()
	done := make(chan struct{})
	go func() { d.wg.Wait(); close(done) }()
	timer := time.NewTimer(d.cfg.CloseTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	d.mu.Lock()
	left := slices.Sorted(maps.Keys(d.calls))
	d.mu.Unlock()
	if len(left) == 0 {
		left = []string{"the connection"}
	}
	d.log.Warn("libvirt does not end what is under way; leaving it behind", "uri", d.cfg.URI, "waited", d.cfg.CloseTimeout, "left", left)
	return fmt.Errorf("close libvirt driver: not ended after %s: %s", d.cfg.CloseTimeout, strings.Join(left, ", "))
}

// Subscribe implements hypervisor.Inventory.
func (d *Driver) Subscribe(ctx context.Context) <-chan hypervisor.Event {
	return d.hub.Subscribe(ctx)
}

// keepConnected holds a connection until ctx ends. It closes first once it has one.
func (d *Driver) keepConnected(ctx context.Context, first chan<- struct{}) {
	pause, level := d.cfg.RetryMin, slog.LevelWarn
	for ctx.Err() == nil {
		session, err := d.connect()
		if err != nil {
			d.log.Log(ctx, level, "cannot connect to libvirt", "uri", d.cfg.URI, "error", err)
			level = slog.LevelDebug // once for each outage is enough
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, d.cfg.RetryMax)
			continue
		}
		pause, level = d.cfg.RetryMin, slog.LevelWarn
		d.log.Info("connected to libvirt", "uri", d.cfg.URI)
		d.setConn(session.conn)
		if first != nil {
			close(first)
			first = nil
		}
		// Before the first connection nobody can have missed anything, but somebody may
		// be waiting for it.
		d.hub.Publish(hypervisor.Event{Kind: hypervisor.EventResync, Time: time.Now(), Detail: "connected"})
		select {
		case <-session.lost:
			d.log.Warn("connection to libvirt lost", "uri", d.cfg.URI)
		case <-ctx.Done():
		}
		d.setConn(nil)
		session.close()
	}
}

func (d *Driver) setConn(conn *libvirt.Connect) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = conn
}

// begin enters an act and returns the connection with a reference of its own, so that
// it stays valid when it is lost meanwhile. The caller passes both to end.
func (d *Driver) begin(act string) (*libvirt.Connect, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil || d.closed {
		return nil, hypervisor.ErrUnavailable
	}
	if err := d.conn.Ref(); err != nil {
		return nil, fmt.Errorf("%w: %w", hypervisor.ErrUnavailable, err)
	}
	d.calls[act]++
	d.wg.Add(1)
	return d.conn, nil
}

func (d *Driver) end(act string, conn *libvirt.Connect) {
	_, _ = conn.Close()
	d.mu.Lock()
	if d.calls[act]--; d.calls[act] == 0 {
		delete(d.calls, act)
	}
	d.mu.Unlock()
	d.wg.Done()
}

// call runs fn with the connection and returns its result, or as soon as ctx ends the
// context's error. libvirt's calls cannot be interrupted: fn then runs on, and its
// result goes to discard, which frees what it holds.
func call[T any](ctx context.Context, d *Driver, act string, discard func(T), fn func(*libvirt.Connect) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, fmt.Errorf("%s: %w", act, err)
	}
	conn, err := d.begin(act)
	if err != nil {
		return zero, fmt.Errorf("%s: %w", act, err)
	}
	type result struct {
		value T
		err   error
	}
	done, given := make(chan result), make(chan struct{})
	defer close(given)
	go func() {
		defer d.end(act, conn)
		value, err := fn(conn)
		select {
		case done <- result{value, err}:
		case <-given:
			if err == nil && discard != nil {
				discard(value)
			}
		}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return zero, fmt.Errorf("%s: %w", act, classify(r.err))
		}
		return r.value, nil
	case <-ctx.Done():
		return zero, fmt.Errorf("%s: %w", act, ctx.Err())
	}
}

// onDomain runs fn with the domain of ref, once it is known to be ours.
func onDomain[T any](ctx context.Context, d *Driver, act string, ref hypervisor.Ref, discard func(T), fn func(*libvirt.Connect, *libvirt.Domain) (T, error)) (T, error) {
	return call(ctx, d, act+" "+ref.String(), discard, func(conn *libvirt.Connect) (T, error) {
		var zero T
		dom, err := d.lookup(conn, ref)
		if err != nil {
			return zero, err
		}
		defer dom.Free()
		return fn(conn, dom)
	})
}

// act is onDomain without a result.
func (d *Driver) act(ctx context.Context, what string, ref hypervisor.Ref, fn func(*libvirt.Domain) error) error {
	_, err := onDomain(ctx, d, what, ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, fn(dom)
	})
	return err
}
