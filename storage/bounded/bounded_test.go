package bounded

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/dir"
	"virtmesh/storage/storagetest"
)

// hangs is a pool whose calls hang while it is told to.
type hangs struct {
	*storagetest.Fake
	mu    sync.Mutex
	until chan struct{} // nil while calls return
}

func newHangs() *hangs {
	return &hangs{Fake: storagetest.NewFake("pool", storage.Capabilities{})}
}

// hang makes every call hang until the function that it returns is called.
func (h *hangs) hang() (heal func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = make(chan struct{})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		close(h.until)
		h.until = nil
	}
}

func (h *hangs) wait() {
	h.mu.Lock()
	until := h.until
	h.mu.Unlock()
	if until != nil {
		<-until
	}
}

func (h *hangs) Get(ctx context.Context, name string) (storage.Volume, error) {
	h.wait()
	return h.Fake.Get(ctx, name)
}

func (h *hangs) Create(ctx context.Context, spec storage.VolumeSpec) (storage.Volume, error) {
	h.wait()
	return h.Fake.Create(ctx, spec)
}

func (h *hangs) Usage(ctx context.Context) (storage.Usage, error) {
	h.wait()
	return h.Fake.Usage(ctx)
}

func (h *hangs) Probe(ctx context.Context) (storage.Space, error) {
	h.wait()
	return h.Fake.Probe(ctx)
}

func (h *hangs) Close() error {
	h.wait()
	return h.Fake.Close()
}

// goroutinesInPools returns how many goroutines run code of this package. Of those that
// have ended it counts none: runtime.NumGoroutine still has some, and the runtime's own.
func goroutinesInPools() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(stack, []byte("virtmesh/storage/bounded.")) {
			n++
		}
	}
	return n
}

// open returns a pool that was tried, with the error of Try.
func open(t *testing.T, inner storage.ProbedPool, edit func(*Config)) (*Pool, error) {
	t.Helper()
	cfg := DefaultConfig("pool", "/srv/pool")
	cfg.Open = func() (storage.ProbedPool, error) { return inner, nil }
	if edit != nil {
		edit(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p, p.Try(t.Context())
}

func TestSuite(t *testing.T) {
	wrap := func(t *testing.T, inner storage.ProbedPool) storage.Pool {
		p, err := open(t, inner, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("fake", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) (storage.Pool, storagetest.Access) {
			fake := storagetest.NewFake("pool", storage.Capabilities{})
			return wrap(t, fake), fake
		})
	})
	t.Run("dir", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) (storage.Pool, storagetest.Access) {
			inner, err := dir.Open(dir.DefaultConfig("pool", filepath.Join(t.TempDir(), "pool")))
			if err != nil {
				t.Fatal(err)
			}
			return wrap(t, inner), storagetest.Files{}
		})
	})
}

// While the storage is silent, callers get their answer at once, and nothing is added to
// what hangs. When it answers again, all of it ends, and the pool is used as before.
func TestAPoolThatFallsSilentAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newHangs()
		p, err := open(t, inner, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Create(t.Context(), storage.VolumeSpec{Name: "v", Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		before := goroutinesInPools()
		heal := inner.hang()
		underWay := make(chan error, 3)
		for range 2 {
			go func() { _, err := p.Get(t.Context(), "v"); underWay <- err }()
		}
		go func() { _, err := p.Usage(t.Context()); underWay <- err }()
		synctest.Wait()
		if err := p.Try(t.Context()); !errors.Is(err, ErrSilent) || !errors.Is(err, storage.ErrUnavailable) {
			t.Fatalf("a silent pool: %v", err)
		}
		for range 3 {
			if err := <-underWay; !errors.Is(err, ErrSilent) {
				t.Errorf("a call under way: %v", err)
			}
		}
		if p.GivenUp() != 3 {
			t.Errorf("%d calls given up, not 3", p.GivenUp())
		}
		synctest.Wait()
		lost := goroutinesInPools() - before
		for start := time.Now(); time.Since(start) < time.Hour; {
			if err := p.Try(t.Context()); !errors.Is(err, ErrSilent) {
				t.Fatal(err)
			}
			asked := time.Now()
			_, err := p.Get(t.Context(), "v")
			_, usageErr := p.Usage(t.Context())
			if !errors.Is(err, ErrSilent) || !errors.Is(usageErr, ErrSilent) || time.Since(asked) > 0 {
				t.Fatalf("after %s: %v, %v", time.Since(asked), err, usageErr)
			}
		}
		synctest.Wait()
		if more := goroutinesInPools() - before - lost; more != 0 || lost == 0 {
			t.Errorf("%d goroutines more after an hour of silence, %d lost at its beginning", more, lost)
		}
		heal()
		if err := p.Try(t.Context()); err != nil {
			t.Fatalf("it answers again: %v", err)
		}
		if _, err := p.Get(t.Context(), "v"); err != nil {
			t.Errorf("the volume after the silence: %v", err)
		}
		synctest.Wait()
		if left := goroutinesInPools() - before; left != 0 || p.GivenUp() != 0 {
			t.Errorf("%d goroutines and %d calls are left", left, p.GivenUp())
		}
	})
}

// An agent that stops waits for no storage, whether the silence was noticed or not.
func TestAClosedPoolWaitsForNoStorage(t *testing.T) {
	for name, noticed := range map[string]bool{"noticed": true, "not noticed": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := newHangs()
				p, err := open(t, inner, nil)
				if err != nil {
					t.Fatal(err)
				}
				heal := inner.hang()
				defer heal()
				ctx, cancel := context.WithCancel(t.Context())
				underWay := make(chan error, 1)
				go func() {
					_, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20})
					underWay <- err
				}()
				synctest.Wait()
				if noticed {
					p.Try(t.Context())
				}
				start := time.Now()
				cancel()
				if err := <-underWay; err == nil {
					t.Error("the call succeeded")
				}
				if err := p.Close(); !errors.Is(err, ErrSilent) {
					t.Errorf("closed: %v", err)
				}
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("it took %s", took)
				}
				if _, err := p.Get(t.Context(), "v"); !errors.Is(err, storage.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			})
		})
	}
}

// A pool that hangs when it is opened is opened once, and can be used when it answers.
func TestAPoolThatHangsWhenItIsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newHangs()
		heal := inner.hang()
		opened := 0
		p, err := open(t, inner, func(c *Config) {
			c.Open = func() (storage.ProbedPool, error) {
				opened++
				inner.wait()
				return inner, nil
			}
		})
		for range 100 {
			if !errors.Is(err, ErrSilent) {
				t.Fatalf("got %v", err)
			}
			err = p.Try(t.Context())
		}
		heal()
		if err := p.Try(t.Context()); err != nil || opened != 1 {
			t.Errorf("opened %d times: %v", opened, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// An open that ends after the pool was closed leaves no pool open.
func TestAPoolThatOpensTooLateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newHangs()
		heal := inner.hang()
		p, _ := open(t, inner, func(c *Config) {
			c.Open = func() (storage.ProbedPool, error) { inner.wait(); return inner, nil }
		})
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		heal()
		synctest.Wait()
		if _, err := inner.List(t.Context()); !errors.Is(err, storage.ErrClosed) {
			t.Errorf("the pool that came late: %v", err)
		}
	})
}

// Calls that hang although the pool answers are bounded too.
func TestCallsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newHangs()
		p, err := open(t, inner, func(c *Config) { c.MaxCalls = 2 })
		if err != nil {
			t.Fatal(err)
		}
		heal := inner.hang()
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := p.Get(ctx, "v"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("given up: %v", err)
			}
		}
		if _, err := p.Get(t.Context(), "v"); !errors.Is(err, storage.ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		heal()
		synctest.Wait()
		if _, err := p.Get(t.Context(), "v"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("when they have ended: %v", err)
		}
	})
}
