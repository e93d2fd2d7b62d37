package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// The limit rises with what is in use, is gone with Keep, and never forbids what an
// operator has allowed.
func TestTheLimitFollowsWhatIsInUse(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Keep(ctx) }()
	await(t, "a limit", func() bool { return debug.SetMemoryLimit(-1) != before })
	cancel()
	<-done
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("Keep left the limit at %d", got)
	}
	runtime.GC()
	small := limitFor(inUse(), inUse())
	held := make([]byte, 100<<20)
	runtime.GC()
	if large := limitFor(inUse(), inUse()); large < small+100<<20 {
		t.Errorf("with 100 MiB more in use the limit rises from %d to %d", small, large)
	}
	runtime.KeepAlive(held)
	t.Setenv("GOMEMLIMIT", "1GiB")
	Keep(t.Context()) // returns at once
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("an operator's limit became %d", got)
	}
}

// A burst gets what it needs, with less room for garbage than an agent that needs so much
// for good: one that has needed it for a minute.
func TestABurstRaisesTheLimitSlowly(t *testing.T) {
	const calm, burst = 120 << 20, 200 << 20
	var s samples
	for range calmSamples {
		s.least(calm)
	}
	for range calmSamples - 1 {
		if got := limitFor(s.least(burst), burst); got <= burst || got > limitFor(burst, burst)-64<<20 {
			t.Fatalf("in a burst of %d the limit is %d, for good it were %d", burst, got, limitFor(burst, burst))
		}
	}
	if got, want := limitFor(s.least(burst), burst), limitFor(burst, burst); got != want {
		t.Errorf("after a minute the limit is %d, want %d", got, want)
	}
}

// A start takes in what the agent needs for good, and is no burst.
func TestAStartIsNoBurst(t *testing.T) {
	const empty, full = 40 << 20, 160 << 20
	var s samples
	s.least(empty)
	for range 2 * calmSamples {
		if got, want := limitFor(s.least(full), full), limitFor(full, full); got != want {
			t.Fatalf("a start that needs %d gets a limit of %d, for good it were %d", full, got, want)
		}
	}
}

// What a burst has left is given back, although nothing is allocated any more.
func TestABurstIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		debug.FreeOSMemory()
		rest := mapped()
		go Keep(ctx)
		time.Sleep(2 * pause)
		if grown := allocate(4 * surplus); grown < rest+3*surplus {
			t.Fatalf("allocating %d bytes made %d of %d", 4*surplus, grown, rest)
		}
		time.Sleep(10 * pause)
		if got := mapped(); got > rest+surplus {
			t.Errorf("%d bytes more than before are kept", got-rest)
		}
	})
}

// A burst that is longer than the pauses does not pass for what is usual.
func TestALongBurstIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		debug.FreeOSMemory()
		rest := mapped()
		go Keep(ctx)
		time.Sleep(2 * pause)
		func() {
			held := make([]byte, 6*surplus)
			for began := time.Now(); time.Since(began) < 10*pause; time.Sleep(every / 2) {
				allocate(restful)
			}
			runtime.KeepAlive(held)
		}()
		time.Sleep(10 * pause)
		if got := mapped(); got > rest+surplus {
			t.Errorf("%d bytes more than before are kept", got-rest)
		}
	})
}

// allocate takes n bytes for a moment, and returns what is mapped meanwhile.
//
//go:noinline
func allocate(n int) int64 {
	burst := make([]byte, n)
	for i := range burst {
		burst[i] = 1
	}
	defer runtime.KeepAlive(burst)
	return mapped()
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
		runtime.Gosched()
	}
}
