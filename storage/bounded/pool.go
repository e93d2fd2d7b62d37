// Package bounded keeps the callers of a pool from waiting for ever. A call on a file
// system whose server is gone (NFS, FUSE), or whose disk is, may never return, and
// nothing can interrupt it. So every call runs in a goroutine of its own that may be
// lost, and one question at a time, Try, finds out whether the pool still answers. While
// it does not, the calls under way fail, and further ones fail at once.
//
// How much can be lost is bounded: at most Config.MaxCalls calls and one question, for as
// long as the storage does not answer. When it answers again, they end, and the pool can be
// used without being opened anew.
//
// A call that was given up may still have its effect later, as after any error of which the
// outcome is unknown: who calls again meets it half done, done, or not done. Its context
// has ended, so a driver that looks at it goes no further than the step that hangs.
package bounded

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"virtmesh/storage"
)

// ErrSilent says that a pool's storage does not answer.
var ErrSilent = fmt.Errorf("%w: its storage does not answer", storage.ErrUnavailable)

// errNotOpened is why a pool cannot be used that was never tried.
var errNotOpened = fmt.Errorf("%w: it was not opened yet", storage.ErrUnavailable)

// Config describes a Pool.
type Config struct {
	// Name is the pool's name, and Place the directory or device that errors name.
	Name, Place string
	// Open opens the pool. It may hang, and is called until it succeeds. Required.
	Open func() (storage.ProbedPool, error)
	// Patience is how long the storage may take to answer Open or Probe.
	Patience time.Duration
	// Grace is how long a call may go on after its context has ended, to clean up.
	Grace time.Duration
	// MaxCalls bounds the calls under way, those that were given up included.
	MaxCalls int
}

// DefaultConfig returns the settings to start from.
func DefaultConfig(name, place string) Config {
	return Config{Name: name, Place: place, Patience: Patience, Grace: time.Second, MaxCalls: 32}
}

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	switch {
	case c.Name == "" || c.Open == nil:
		return errors.New("bounded pool: Name and Open are required")
	case c.Patience <= 0 || c.Grace <= 0 || c.MaxCalls < 1:
		return fmt.Errorf("bounded pool %s: want Patience, Grace and MaxCalls > 0", c.Name)
	}
	return nil
}

// silence is the error of a pool that does not answer.
func (c Config) silence() error {
	return fmt.Errorf("pool %s: %w: check the server or disk below %s", c.Name, ErrSilent, c.Place)
}

// Patience is how long storage may take to answer a short question.
const Patience = 5 * time.Second

// Wait returns what fn returns, or ErrSilent if that takes longer than patience: fn is then
// lost until the storage answers. It is for programs that ask once and then end.
func Wait(patience time.Duration, fn func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- fn() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return ErrSilent
	}
}

// Pool is a pool whose calls return even if its storage does not answer. It is a
// Snapshotter, whose methods fail with storage.ErrUnsupported where the pool below is
// none; Capabilities.Snapshots says so before.
type Pool struct {
	cfg   Config
	slots chan struct{} // holds a token for each call under way
	usage singleflight.Group

	// pending will have the answer to the question under way, nil if there is none. Only
	// Try uses it.
	pending chan answer

	mu    sync.Mutex
	inner storage.ProbedPool // nil until it is opened
	err   error              // why the pool cannot be used
	space storage.Space
	// silent is closed while the storage does not answer, and stopped by Close.
	silent, stopped chan struct{}
	givenUp         int
}

// answer is what a pool answers to the question whether it is there.
type answer struct {
	space storage.Space
	err   error
}

var (
	_ storage.Pool        = (*Pool)(nil)
	_ storage.Snapshotter = (*Pool)(nil)
)

// New returns a pool that is not open: Try opens it.
func New(cfg Config) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Pool{
		cfg: cfg, slots: make(chan struct{}, cfg.MaxCalls), silent: make(chan struct{}), stopped: make(chan struct{}),
		err: fmt.Errorf("pool %s: %w", cfg.Name, errNotOpened),
	}, nil
}

// Try opens the pool, or asks it whether it is there if it is open, and returns why it
// cannot be used, nil if it can. It waits at most Config.Patience. If the storage has not
// answered the Try before, this one waits for that answer. Not to be called at once.
func (p *Pool) Try(ctx context.Context) error {
	if p.pending == nil {
		p.pending = p.askStorage()
	}
	timer := time.NewTimer(p.cfg.Patience)
	defer timer.Stop()
	select {
	case a := <-p.pending:
		p.pending = nil
		p.learn(a)
	case <-timer.C:
		p.learn(answer{err: p.cfg.silence()})
	case <-ctx.Done():
	}
	return p.Err()
}

// askStorage asks the storage whether it is there, in a goroutine that may be lost.
func (p *Pool) askStorage() chan answer {
	answers := make(chan answer, 1)
	inner := p.opened()
	go func() {
		var a answer
		if inner == nil {
			if inner, a.err = p.cfg.Open(); a.err == nil {
				a.err = p.adopt(inner)
			}
		}
		if a.err == nil {
			a.space, a.err = inner.Probe(context.Background())
		}
		answers <- a
	}()
	return answers
}

// adopt takes the pool that was opened, and closes it if that came too late.
func (p *Pool) adopt(inner storage.ProbedPool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		return errors.Join(p.closedError(), inner.Close())
	}
	p.inner = inner
	return nil
}

func (p *Pool) opened() storage.ProbedPool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inner
}

// learn takes over what became of a question.
func (p *Pool) learn(a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch before, now := errors.Is(p.err, ErrSilent), errors.Is(a.err, ErrSilent); {
	case now && !before:
		close(p.silent)
	case before && !now:
		p.silent = make(chan struct{})
	}
	p.err = a.err
	if a.err == nil {
		p.space = a.space
	}
}

// Opened reports whether the pool was opened. It may be unable to be used nevertheless.
func (p *Pool) Opened() bool { return p.opened() != nil }

// Err returns why the pool cannot be used, as the last Try has found out; nil if it can.
func (p *Pool) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Space returns the room in the pool when it answered last.
func (p *Pool) Space() storage.Space {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.space
}

// GivenUp returns how many calls were given up that have not ended.
func (p *Pool) GivenUp() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.givenUp
}

// Close implements storage.Pool. It waits for running operations, at most
// Config.Patience, and returns an error if some have not ended then: they are lost.
func (p *Pool) Close() error {
	p.mu.Lock()
	inner, silent, first := p.inner, p.silent, !p.isClosed()
	if first {
		close(p.stopped)
	}
	p.mu.Unlock()
	if !first || inner == nil {
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- inner.Close() }()
	timer := time.NewTimer(p.cfg.Patience)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-silent:
	case <-timer.C:
	}
	return fmt.Errorf("close pool %s: %w, and calls into it have not ended", p.cfg.Name, ErrSilent)
}

// isClosed reports whether Close was called. The caller holds p.mu.
func (p *Pool) isClosed() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

func (p *Pool) closedError() error { return fmt.Errorf("pool %s: %w", p.cfg.Name, storage.ErrClosed) }
