// Package shutdown ends all guests of a host: it asks each to shut down, gives it the time that
// its instance grants, and then cuts its power. It is for hosts that cannot ask the mesh any
// more, because they were expelled from it or are being switched off; what the mesh wants ended,
// the executor ends. It touches none of a guest's disks, and no domain that is not ours.
package shutdown

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"virtmesh/agent/host/hypervisor"
)

const (
	// askInterval is how often a guest is asked again: one that had not finished booting
	// ignores the first request.
	askInterval = 5 * time.Second
	// lookInterval is how often it is looked at whether a guest has ended.
	lookInterval = 500 * time.Millisecond
	// callTimeout bounds a call for one guest whose emulator may hang, listTimeout one for all,
	// and cutTimeout the end of an emulator, which libvirt itself tries for half a minute.
	callTimeout = 10 * time.Second
	listTimeout = 30 * time.Second
	cutTimeout  = time.Minute
)

// Guests is what is needed of a hypervisor.
type Guests interface {
	List(ctx context.Context) ([]hypervisor.Domain, error)
	Get(ctx context.Context, ref hypervisor.Ref) (hypervisor.Domain, error)
	Shutdown(ctx context.Context, ref hypervisor.Ref) error
	Resume(ctx context.Context, ref hypervisor.Ref) error
	Thaw(ctx context.Context, ref hypervisor.Ref) error
	Destroy(ctx context.Context, ref hypervisor.Ref) error
}

// Config says which guests end, and how.
type Config struct {
	Guests Guests
	// Limit bounds the whole: a guest that was not asked by then, or has time left, loses its
	// power.
	Limit time.Duration
	// AtOnce is how many guests shut down at the same time.
	AtOnce int
	// Frozen, if set, reports whether a guest's file systems may be frozen, so that it cannot
	// shut down.
	Frozen func(guest hypervisor.Domain) bool
	// Ended, if set, is called after a guest has ended; powerCut says that it did not shut
	// down in time. It may be called for several guests at once.
	Ended func(ctx context.Context, guest hypervisor.Domain, powerCut bool)
	// Logger receives a line for each guest.
	Logger *slog.Logger
}

// Validate says what is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Guests == nil:
		return errors.New("shutdown of guests: Guests is nil")
	case c.Limit <= 0:
		return errors.New("shutdown of guests: Limit must be positive")
	case c.AtOnce < 1:
		return errors.New("shutdown of guests: AtOnce must be at least 1")
	case c.Logger == nil:
		return errors.New("shutdown of guests: Logger is nil")
	}
	return nil
}

// Run ends all guests of the host. It returns nil when none has a process left, and otherwise
// why; then it may be called again.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	end := time.Now().Add(cfg.Limit)
	listing, cancel := context.WithTimeout(ctx, listTimeout)
	domains, err := cfg.Guests.List(listing)
	cancel()
	if err != nil {
		return fmt.Errorf("list the guests of this host: %w", err)
	}
	var running sync.WaitGroup
	places := make(chan struct{}, cfg.AtOnce)
	failures := make(chan error, len(domains))
	for _, domain := range domains {
		if !domain.State.Active() {
			continue
		}
		running.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			failures <- cfg.end(ctx, domain, end)
		})
	}
	running.Wait()
	close(failures)
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	return err
}

// end ends one guest.
func (c Config) end(ctx context.Context, guest hypervisor.Domain, limit time.Time) error {
	ref, began := guest.Owner.Ref, time.Now()
	until := limit
	if due := began.Add(grace(guest.Owner)); guest.Owner.GraceSeconds != 0 && due.Before(limit) {
		until = due
	}
	if guest.State == hypervisor.StatePaused && guest.Reason != hypervisor.ReasonMigration && time.Now().Before(until) {
		// A paused guest cannot handle the request.
		c.try(ctx, ref, "resume", c.Guests.Resume)
	}
	if c.Frozen != nil && c.Frozen(guest) {
		// An agent that hangs must leave time to ask the guest.
		thawing, cancel := context.WithTimeout(ctx, time.Until(until)/2)
		c.try(thawing, ref, "thaw", c.Guests.Thaw)
		cancel()
	}
	var asked time.Time
	for {
		ended, err := c.hasEnded(ctx, ref)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("end guest %s: %w", ref, ctx.Err())
		case err == nil && ended:
			c.Logger.Info("guest was shut down", "instance", ref, "took", now.Sub(began).Round(time.Millisecond))
			c.tellEnd(ctx, guest, false)
			return nil
		case !now.Before(until):
			return c.cutPower(ctx, guest, now.Sub(began))
		case now.Sub(asked) >= askInterval:
			asked = now
			c.try(ctx, ref, "request shutdown", c.Guests.Shutdown)
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(lookInterval, time.Until(until))):
		}
	}
}

// hasEnded reports whether a guest has no process any more.
func (c Config) hasEnded(ctx context.Context, ref hypervisor.Ref) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	domain, err := c.Guests.Get(ctx, ref)
	if errors.Is(err, hypervisor.ErrNotFound) {
		return true, nil
	}
	return err == nil && !domain.State.Active(), err
}

// try makes a call whose failure is no reason not to go on.
func (c Config) try(ctx context.Context, ref hypervisor.Ref, what string, call func(context.Context, hypervisor.Ref) error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := call(ctx, ref); err != nil {
		c.Logger.Debug("guest cannot be asked", "instance", ref, "what", what, "err", err)
	}
}

func (c Config) cutPower(ctx context.Context, guest hypervisor.Domain, after time.Duration) error {
	c.Logger.Warn("guest did not shut down in time: its power is cut", "instance", guest.Owner.Ref, "after", after.Round(time.Millisecond))
	cutting, cancel := context.WithTimeout(ctx, cutTimeout)
	defer cancel()
	if err := c.Guests.Destroy(cutting, guest.Owner.Ref); err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return fmt.Errorf("cut the power of guest %s: %w", guest.Owner.Ref, err)
	}
	c.tellEnd(ctx, guest, true)
	return nil
}

func (c Config) tellEnd(ctx context.Context, guest hypervisor.Domain, powerCut bool) {
	if c.Ended != nil {
		c.Ended(ctx, guest, powerCut)
	}
}

// grace is how long a guest may take to shut down whose domain says it. One that an earlier
// version started does not, and may be a database that its instance gives a quarter of an hour:
// it has the time of all.
func grace(owner hypervisor.Owner) time.Duration {
	const most = int64(math.MaxInt64 / time.Second / 2)
	return time.Duration(max(0, min(owner.GraceSeconds, most))) * time.Second
}
