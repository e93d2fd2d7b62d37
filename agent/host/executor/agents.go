package executor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"virtmesh/agent/host/hypervisor"
)

const (
	// guestInfoInterval is how often a connected guest agent is asked again, for
	// changes that no event reports.
	guestInfoInterval = time.Minute
	// guestInfoPause is the least time between two queries to one guest agent. Neither
	// events nor failures shorten it, because the guest can cause both.
	guestInfoPause = 30 * time.Second
	// questionTimeout bounds one query. A guest may delay each of its answers.
	questionTimeout = 10 * time.Second
	// maxQuestions bounds how many guest agents are queried at once. The hypervisor has
	// the same bound, and a query that waits there for its turn uses up its timeout.
	maxQuestions = 3
)

// agents queries the guest agents. Guests are hostile: an agent may delay its
// answers, and connect and disconnect as fast as it likes. So no worker waits for
// an agent, each guest has at most one query under way, and a guest cannot cause
// more queries or more status writes than other guests, however it behaves.
type agents struct {
	ask   func(context.Context, hypervisor.Ref) (hypervisor.GuestInfo, error)
	tasks *tasks
	// answered is called with the guest whose query has ended.
	answered func(hypervisor.Ref)
	turns    chan struct{}
	now      func() time.Time

	mu     sync.Mutex
	guests map[string]*guest // by the instance's UID
}

// guest is what is known of one guest's agent. The lock of agents guards it.
type guest struct {
	// info is the last answer, if known.
	info  hypervisor.GuestInfo
	known bool
	// asked is when the last query ended, and err its error.
	asked time.Time
	err   error
	// stale says that an event came after the last answer, which may be out of date.
	stale bool
	// asking is closed when the query under way ends; nil when none is.
	asking chan struct{}
}

func newAgents(hv hypervisor.Observer, tasks *tasks, now func() time.Time, answered func(hypervisor.Ref)) *agents {
	return &agents{
		ask: hv.GuestInfo, tasks: tasks, now: now, answered: answered,
		turns: make(chan struct{}, maxQuestions), guests: map[string]*guest{},
	}
}

// guestOf returns the guest's record. The caller holds the lock.
func (a *agents) guestOf(uid string) *guest {
	g := a.guests[uid]
	if g == nil {
		g = &guest{}
		a.guests[uid] = g
	}
	return g
}

// lastAnswer returns the guest agent's last answer without waiting; known is false when
// there is none. It starts a new query when one is due. next is the time until
// the next query is due.
func (a *agents) lastAnswer(ref hypervisor.Ref) (info hypervisor.GuestInfo, known bool, next time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.guestOf(ref.UID)
	next = guestInfoInterval
	if g.stale || g.err != nil {
		next = guestInfoPause
	}
	if g.asking == nil {
		if next -= a.now().Sub(g.asked); next <= 0 {
			a.startQuery(ref, g)
			next = guestInfoInterval
		}
	}
	return g.info, g.known, next
}

// awaitAnswer returns the guest agent's answer. When the last answer or failure is older
// than guestInfoPause, it starts a new query and waits for that.
func (a *agents) awaitAnswer(ctx context.Context, ref hypervisor.Ref) (hypervisor.GuestInfo, error) {
	a.mu.Lock()
	g := a.guestOf(ref.UID)
	if g.asking == nil && a.now().Sub(g.asked) >= guestInfoPause {
		a.startQuery(ref, g)
	}
	asking := g.asking
	a.mu.Unlock()
	if asking != nil {
		select {
		case <-asking:
		case <-ctx.Done():
			return hypervisor.GuestInfo{}, ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return g.info, g.err
}

// startQuery starts a query of the guest agent. The caller holds the lock, and no query
// of this guest is under way.
func (a *agents) startQuery(ref hypervisor.Ref, g *guest) {
	asking := make(chan struct{})
	err := a.tasks.startTask(func(ctx context.Context) {
		info, err := a.askInTurn(ctx, ref)
		a.mu.Lock()
		if err == nil {
			g.info, g.known = info, true
		}
		g.err, g.asked, g.stale, g.asking = err, a.now(), false, nil
		a.mu.Unlock()
		close(asking)
		a.answered(ref)
	})
	if err != nil {
		g.err, g.asked = err, a.now()
		return
	}
	g.asking = asking
}

func (a *agents) askInTurn(ctx context.Context, ref hypervisor.Ref) (hypervisor.GuestInfo, error) {
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-ctx.Done():
		return hypervisor.GuestInfo{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	info, err := a.ask(ctx, ref)
	if err != nil {
		return info, fmt.Errorf("ask the guest agent: %w", err)
	}
	return info, nil
}

// markStale marks the guest's last answer as possibly out of date.
func (a *agents) markStale(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g := a.guests[uid]; g != nil {
		g.stale = true
	}
}

// dropGuest drops what is known of a guest that has ended.
func (a *agents) dropGuest(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.guests, uid)
}
