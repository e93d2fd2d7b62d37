package stewards

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
)

// Result is the outcome of a successful reconciliation.
type Result struct {
	// RequeueAfter asks for the key to be handled again after this time.
	// Zero means: only when an input names it again.
	RequeueAfter time.Duration
	// Pending says that the work continues outside of the reconciler, and that
	// an input will name the key when the work has ended. Earlier failures
	// still count, so that work that fails each time is started at growing
	// intervals.
	Pending bool
}

// Reconciler makes the world fit one object.
type Reconciler interface {
	// Reconcile handles the object named key, which may no longer exist. It
	// may be called by several workers at once, but never twice at once for
	// one key. It must be repeatable: the engine calls it again after an
	// error, a restart, a change of steward, or for no reason at all. It
	// commits with ctx, or with a context made from it, to the store of its
	// Deps.
	Reconcile(ctx context.Context, key Key) (Result, error)
}

// ReconcilerFunc is a function that is a Reconciler.
type ReconcilerFunc func(ctx context.Context, key Key) (Result, error)

// Reconcile calls f.
func (f ReconcilerFunc) Reconcile(ctx context.Context, key Key) (Result, error) { return f(ctx, key) }

// Steward is one control loop: what it reads, what it writes, and what it does.
// Name, Reconciler and an input with a source are required. The zero value of
// every other field is a setting that fits most loops.
type Steward struct {
	// Name identifies the loop in logs, metrics and the list of stewards.
	Name string
	// Scope is hashed with the key to find the host that handles it. Empty means
	// Name. Loops that share a scope are run for one key by one host.
	Scope string
	// Everywhere makes every host handle all keys that its inputs name. It is
	// meant for loops whose inputs concern the host itself.
	Everywhere bool
	// Inputs are what the loop reads, and the keys that a change of each input
	// names.
	Inputs []Input
	// Outputs are what the loop writes. The engine refuses everything else.
	// A loop without outputs is not checked.
	Outputs []Output
	// Reconciler does the work.
	Reconciler Reconciler
	// Moved, if set, is called with a key that is due on this host but now has
	// another steward, so that the loop can drop what it remembers of the key.
	// A key that was handled here and asked to be handled again always becomes
	// due.
	Moved func(Key)
	// Workers is the number of keys handled at the same time. Zero means 4.
	Workers int
	// MinBackoff is the delay after the first failure of a key; it doubles with
	// every further failure up to MaxBackoff. Zero means 100 ms and one minute.
	MinBackoff, MaxBackoff time.Duration
	// Timeout ends the context of one reconciliation. Zero means one minute.
	Timeout time.Duration
	// Resync is how often every key of this host is handled without a
	// notification, in case one was missed. A key that fails is handled at the end
	// of its back-off instead. Zero means ten minutes; less than zero means never.
	Resync time.Duration
}

// complete fills in the settings that were left out and reports what is missing
// or contradicts itself.
func (s *Steward) complete() error {
	if s.Scope == "" {
		s.Scope = s.Name
	}
	setDefault(&s.Workers, 4)
	setDefault(&s.MinBackoff, 100*time.Millisecond)
	setDefault(&s.MaxBackoff, time.Minute)
	setDefault(&s.Timeout, time.Minute)
	setDefault(&s.Resync, 10*time.Minute)
	switch {
	case s.Name == "":
		return errors.New("steward without a Name")
	case s.Reconciler == nil:
		return fmt.Errorf("steward %s: Reconciler is nil", s.Name)
	case len(s.sources()) == 0:
		return fmt.Errorf("steward %s: no input has a source", s.Name)
	case s.Workers < 1:
		return fmt.Errorf("steward %s: Workers is %d, want at least 1", s.Name, s.Workers)
	case s.MinBackoff <= 0 || s.MaxBackoff < s.MinBackoff:
		return fmt.Errorf("steward %s: want 0 < MinBackoff <= MaxBackoff, have %s and %s", s.Name, s.MinBackoff, s.MaxBackoff)
	case s.Timeout <= 0:
		return fmt.Errorf("steward %s: Timeout is %s, want more than 0", s.Name, s.Timeout)
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// waitForInputs returns when every input has been read once.
func (s *Steward) waitForInputs(ctx context.Context) error {
	for _, in := range s.Inputs {
		wait := in.Sync
		if in.Source != nil {
			wait = in.Source.WaitForSync
		}
		if wait == nil {
			continue
		}
		if err := wait(ctx); err != nil {
			return fmt.Errorf("steward %s: wait for %s: %w", s.Name, in.What, err)
		}
	}
	return nil
}

func (s *Steward) sources() []Source {
	var sources []Source
	for _, in := range s.Inputs {
		if in.Source != nil {
			sources = append(sources, in.Source)
		}
	}
	return sources
}

// Input is something that a control loop reads.
type Input struct {
	// What is the readable name of the input: a kind, or a description of
	// something that is not an object.
	What string
	// Wakes describes the keys that a change of the input wakes; empty if it
	// wakes none.
	Wakes string
	// Source names the keys; nil if the loop only reads it.
	Source Source
	// Sync, if set, returns when an input without a source has been read once.
	// No key is handled before that.
	Sync func(ctx context.Context) error
}

// String describes the input in one line.
func (i Input) String() string {
	if i.Source == nil {
		return i.What + " (read only)"
	}
	return i.What + " (wakes " + i.Wakes + ")"
}

// Watch is the input of the objects of kind T, whose changes wake their own
// keys.
func Watch[T objects.Object](cache *objects.Cache) Input {
	return Input{What: objects.KindFor[T]().GVK.Kind, Wakes: "itself", Source: objects.For[T](cache)}
}

// WatchNamed is the input of the objects of kind T, whose changes wake the keys that the
// object named before and names now, by fn, which looks at nothing but the object; wakes
// is the readable description of these keys.
func WatchNamed[T objects.Object](cache *objects.Cache, wakes string, fn func(T) []objects.Key) Input {
	return Input{What: objects.KindFor[T]().GVK.Kind, Wakes: wakes, Source: objects.NewIndex(objects.For[T](cache), fn)}
}

// WatchFor is the input of the objects of kind T, whose changes wake the keys
// that fn returns, by whatever it looks at; wakes is the readable description of these
// keys. It decodes all objects whenever all keys are asked for, so it is for kinds of
// which there are few.
func WatchFor[T objects.Object](cache *objects.Cache, wakes string, fn func(objects.Change[T]) []objects.Key) Input {
	return Input{What: objects.KindFor[T]().GVK.Kind, Wakes: wakes, Source: objects.Map(objects.For[T](cache), fn)}
}

// Reads is the input of the objects of kind T, whose changes wake no key.
func Reads[T objects.Object](cache *objects.Cache) Input {
	return Input{What: objects.KindFor[T]().GVK.Kind, Sync: objects.For[T](cache).WaitForSync}
}

// ReadsClaims is the input of the claims, whose changes wake no key.
func ReadsClaims(c *claims.Cache) Input { return Input{What: "claims", Sync: c.WaitForSync} }

// Periodic is the input of a loop that only time wakes. Its one key is called
// name, and its reconciler sets Result.RequeueAfter to say when the key is
// handled again. howOften describes the interval for people.
func Periodic(name, howOften string) Input {
	return Input{What: "time", Wakes: "the one key, " + howOften, Source: Once(name)}
}

// Deps is what an agent lends to its control loops.
type Deps struct {
	// Store is where the loops commit.
	Store objects.Store
	// Cache holds the informers, Claims the claims as the local replica has
	// them.
	Cache  *objects.Cache
	Claims *claims.Cache
	// Recorder writes events.
	Recorder *objects.Recorder
	// Stewardship spreads the keys over the hosts. Nil: all are handled here.
	Stewardship *Stewardship
	// Clock is where the times come from that the loops write.
	Clock objects.Clock
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. Nil: none are registered.
	Registerer prometheus.Registerer
	// Undeclared, if set, is called for each transaction that was refused
	// because the steward does not declare what it writes. Such a transaction
	// is a mistake in the program.
	Undeclared func(error)
}

// NewTx returns an empty transaction, whose times come from the clock.
func (d Deps) NewTx() objects.Tx { return objects.Tx{Clock: d.Clock} }

// Complete returns the deps with a store that refuses undeclared writes. The
// error names a required field that is missing. Constructors of stewards call
// it first.
func (d Deps) Complete() (Deps, error) {
	switch {
	case d.Store == nil:
		return d, errors.New("stewards: Deps.Store is nil")
	case d.Cache == nil:
		return d, errors.New("stewards: Deps.Cache is nil")
	case d.Logger == nil:
		return d, errors.New("stewards: Deps.Logger is nil")
	}
	d.Store = Guard(d.Store)
	return d, nil
}
