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

// Driver implements hypervisor.Hypervisor with one libvirt daemon.
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

	// Calls wait only for other calls of their own lane.
	queries, acts, ends, starts, agents, freezes, moves, counters *lane
	// counted holds the UUIDs of the domains whose counters are being read.
	counted sync.Map
	// freezing holds the UIDs of the instances whose guests are being frozen or thawed.
	freezing sync.Map
	// recording has locks that are held while a domain's records are read, changed and
	// written. A domain that is busy delays only the few others that share its lock.
	recording [16]sync.Mutex
	caps      capabilityCache

	mu     sync.Mutex
	conn   *libvirt.Connect // nil while there is none
	closed bool
	// connects counts the connections that were made.
	connects uint64
	// calls counts the calls under way, by what they do.
	calls map[string]int
}

// New returns a Driver that connects to cfg.URI, and connects again whenever the
// connection is lost. New waits for the first connection, at most cfg.ConnectTimeout. A
// daemon that does not answer by then is no error: calls fail with
// hypervisor.ErrUnavailable until it does.
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
		cfg:      cfg,
		log:      cfg.Logger,
		hub:      broadcast.New(),
		owners:   newOwnerCache(),
		names:    newNameCache(),
		raw:      make(chan rawEvent, rawBacklog),
		calls:    map[string]int{},
		stop:     stop,
		stopped:  life.Done(),
		queries:  newLane("queries", 3),
		acts:     newLane("acts", 3),
		ends:     newLane("ends", 3),
		starts:   newLane("starts", 3),
		agents:   newLane("agents", 2),
		freezes:  newLane("freezes", 1),
		moves:    newLane("moves", 2),
		counters: newLane("counters", 3),
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

// Close implements hypervisor.Hypervisor. It waits for the calls under way. Calls into
// libvirt cannot be interrupted, and a daemon that hangs never answers them. So after
// Config.CloseTimeout, Close returns an error that names the calls that have not ended;
// they last until the process ends.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	d.hub.Close()
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		for _, l := range []*lane{d.acts, d.ends, d.starts, d.agents, d.freezes, d.moves, d.counters} {
			l.close()
		}
		close(done)
	}()
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
	d.log.Warn("calls into libvirt have not ended and are abandoned", "uri", d.cfg.URI, "waited", d.cfg.CloseTimeout, "left", left)
	return fmt.Errorf("close libvirt driver: these calls have not ended after %s: %s", d.cfg.CloseTimeout, strings.Join(left, ", "))
}

// Subscribe implements hypervisor.Inventory.
func (d *Driver) Subscribe(ctx context.Context) <-chan hypervisor.Event {
	return d.hub.Subscribe(ctx)
}

// keepConnected keeps the driver connected until ctx ends. It closes first when the
// first connection is made.
func (d *Driver) keepConnected(ctx context.Context, first chan<- struct{}) {
	pause, level := d.cfg.RetryMin, slog.LevelWarn
	for ctx.Err() == nil {
		session, err := d.connect(d.registerEvents)
		if err != nil {
			d.log.Log(ctx, level, "cannot connect to libvirt", "uri", d.cfg.URI, "err", err)
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
		// No event was lost before the first connection, but a subscriber may wait for
		// the resync to list domains.
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
	if conn != nil {
		d.connects++
	}
}
