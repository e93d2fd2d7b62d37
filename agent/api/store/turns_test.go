package store

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Of the large lists one is decoded at a time, until its request ends or it takes too
// long; small ones pass by as long as there are not too many.
func TestLargeListsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(100)
		begin := func(size int64) (began *atomic.Bool, end context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			began = new(atomic.Bool)
			go func() {
				list := &turn{of: turns, ctx: ctx, size: size}
				if err := list.await(); err == nil {
					began.Store(list.await() == nil)
				}
			}()
			synctest.Wait()
			return began, cancel
		}
		first, endFirst := begin(manyBytes)
		second, endSecond := begin(100 * smallBytes)
		third, endThird := begin(manyBytes)
		small, endSmall := begin(manyBytes - 1)
		if !first.Load() || second.Load() || third.Load() || !small.Load() {
			t.Fatalf("begun: %t, %t, %t, small %t", first.Load(), second.Load(), third.Load(), small.Load())
		}
		endFirst()
		synctest.Wait()
		if !second.Load() || third.Load() {
			t.Fatalf("after the end of the first, begun: %t, %t", second.Load(), third.Load())
		}
		time.Sleep(maxTurn + time.Second) // its client does not read
		synctest.Wait()
		if !third.Load() {
			t.Error("a list waits for one whose client is slow")
		}
		endSecond()
		endThird()
		endSmall()
		synctest.Wait()
		ends := make([]context.CancelFunc, 0, smallBytes/manyBytes+1)
		var last *atomic.Bool
		for range smallBytes/manyBytes + 2 {
			began, end := begin(manyBytes - 1)
			last, ends = began, append(ends, end)
		}
		if last.Load() {
			t.Error("small lists are not bounded")
		}
		for _, end := range ends {
			end()
		}
	})
}

// Whoever has waited for its turn in vain is told to come back.
func TestTurnsEndWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(100)
		ctx, cancel := context.WithTimeout(t.Context(), maxTurn/2)
		defer cancel()
		if err := (&turn{of: turns, ctx: t.Context(), size: manyBytes}).await(); err != nil {
			t.Fatal(err)
		}
		err := (&turn{of: turns, ctx: ctx, size: manyBytes}).await()
		if _, again := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !again {
			t.Errorf("got %v", err)
		}
	})
}

// Lists that wait take a part of the server's places for reads and no more, or small reads
// would find none for as long as a request may take.
func TestFewListsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reads = 40
		turns := NewTurns(reads)
		var waiting, refused atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		if err := (&turn{of: turns, ctx: ctx, size: manyBytes}).await(); err != nil {
			t.Fatal(err)
		}
		for range reads {
			go func() {
				waiting.Add(1)
				defer waiting.Add(-1)
				if err := (&turn{of: turns, ctx: ctx, size: manyBytes}).await(); apierrors.IsTooManyRequests(err) {
					refused.Add(1)
				}
			}()
		}
		synctest.Wait()
		if got := waiting.Load(); got != reads/waitingPart {
			t.Errorf("%d lists wait, of %d reads", got, reads)
		}
		if got := refused.Load(); got != reads-reads/waitingPart {
			t.Errorf("%d lists were told to come back", got)
		}
		if err := (&turn{of: turns, ctx: ctx, size: manyBytes - 1}).await(); err != nil {
			t.Errorf("a small list beside them: %v", err)
		}
		cancel()
		synctest.Wait()
		if err := (&turn{of: turns, ctx: t.Context(), size: manyBytes}).await(); err != nil {
			t.Errorf("after they have gone: %v", err)
		}
	})
}
