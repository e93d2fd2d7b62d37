package store

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// manyBytes is from how much text on a list is large.
	manyBytes = 4 << 20
	// smallBytes bounds the text of the other lists that are decoded at once.
	smallBytes = 16 << 20
	// maxTurn is how long a list keeps others waiting at most: its client may be slow.
	maxTurn = 30 * time.Second
)

// Turns bounds the memory of lists that have to be decoded, which take some ten times
// their text: of the large ones one is decoded at a time, while smaller ones, such as the
// pages that kubectl asks for, pass by. It is safe for concurrent use.
//
// A list that waits keeps one of the server's places for reads, and may wait for as long as a
// request may take. So only a few wait, and the others are told to come back.
type Turns struct {
	large, small *semaphore.Weighted
	waiting      *semaphore.Weighted // places for lists that wait
}

// waitingPart is which part of the server's places for reads lists that wait may take.
const waitingPart = 8

// NewTurns returns the Turns of all stores of a server that takes reads requests at a time.
func NewTurns(reads int) *Turns {
	return &Turns{
		large: semaphore.NewWeighted(1), small: semaphore.NewWeighted(smallBytes),
		waiting: semaphore.NewWeighted(int64(max(1, reads/waitingPart))),
	}
}

// turn is that of one list. A nil turn waits for nothing.
type turn struct {
	of   *Turns
	ctx  context.Context //nolint:containedctx // a list is decoded where no context is passed
	size int64           // of the list's text in bytes; complete before await

	once sync.Once
	err  error
}

// await returns when the list may be decoded. Its turn ends with the request.
func (t *turn) await() error {
	if t == nil || t.of == nil {
		return nil
	}
	t.once.Do(func() { t.err = t.takeRoom() })
	return t.err
}

func (t *turn) takeRoom() error {
	lists, weight := t.of.small, t.size
	if t.size >= manyBytes {
		lists, weight = t.of.large, 1
	}
	if !lists.TryAcquire(weight) && !t.of.wait(t.ctx, lists, weight) {
		return apierrors.NewTooManyRequests("other clients list too much at once; ask for pages with limit", 1)
	}
	end := sync.OnceFunc(func() { lists.Release(weight) })
	context.AfterFunc(t.ctx, end)
	time.AfterFunc(maxTurn, end)
	return nil
}

// wait waits for room in lists. It returns false if the request ended before, or if too many
// wait already.
func (t *Turns) wait(ctx context.Context, lists *semaphore.Weighted, weight int64) bool {
	if !t.waiting.TryAcquire(1) {
		return false
	}
	defer t.waiting.Release(1)
	return lists.Acquire(ctx, weight) == nil
}
