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
	// guestInfoPause is the least time between two questions to one guest. What
	// happens in it, and failures, do not shorten it: the guest decides both.
	guestInfoPause = 30 * time.Second
	// questionTimeout bounds a question. A guest may delay each of its answers.
	questionTimeout = 10 * time.Second
	// maxQuestions bounds how many guests are asked at once. The hypervisor asks no more
	// either, and a question that waits there for its turn loses its time.
	maxQuestions = 3
)

// agents asks the guests' agents. Guests are hostile: an agent may delay its
// answers, connect and disconnect as fast as it likes. So no worker waits for one,
// each guest has one question at a time, and none is asked, or written about, more
// often than others however it behaves.
type agents struct {
	ask   func(context.Context, hypervisor.Ref) (hypervisor.GuestInfo, error)
	tasks *tasks
	// answered is told of which guest there is news.
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
	// asked is when the last question ended, and err how.
	asked time.Time
	err   error
	// stale says that something happened since that the answer may not show.
	stale bool
	// asking is closed when the question under way ends; nil without one.
	asking chan struct{}
}

func newAgents(hv hypervisor.Observer, tasks *tasks, now func() time.Time, answered func(hypervisor.Ref)) *agents {
	return &agents{
		ask: hv.GuestInfo, tasks: tasks, now: now, answered: answered,
		turns: make(chan struct{}, maxQuestions), guests: map[string]*guest{},
	}
}

// of returns the guest's record. The caller holds the lock.
func (a *agents) of(uid string) *guest {
	g := a.guests[uid]
	if g == nil {
		g = &guest{}
		a.guests[uid] = g
	}
	return g
}

// look returns the guest's last answer and never waits for it; known is false when
// there is none. It asks again when it is time to, and says when the next time is.
func (a *agents) look(ref hypervisor.Ref) (info hypervisor.GuestInfo, known bool, next time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.of(ref.UID)
	next = guestInfoInterval
	if g.stale || g.err != nil {
		next = guestInfoPause
	}
	if g.asking == nil {
		if next -= a.now().Sub(g.asked); next <= 0 {
			a.question(ref, g)
			next = guestInfoInterval
		}
	}
	return g.info, g.known, next
}

// get returns the guest's answer, and waits for it when the last one, or the last
// failure, is older than the pause.
func (a *agents) get(ctx context.Context, ref hypervisor.Ref) (hypervisor.GuestInfo, error) {
	a.mu.Lock()
	g := a.of(ref.UID)
	if g.asking == nil && a.now().Sub(g.asked) >= guestInfoPause {
		a.question(ref, g)
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

// question asks the guest. The caller holds the lock, and no question is under way.
func (a *agents) question(ref hypervisor.Ref, g *guest) {
	asking := make(chan struct{})
	err := a.tasks.begin(func(ctx context.Context) {
		info, err := a.inTurn(ctx, ref)
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

func (a *agents) inTurn(ctx context.Context, ref hypervisor.Ref) (hypervisor.GuestInfo, error) {
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

// doubt notes that what the guest said before may not hold any more.
func (a *agents) doubt(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g := a.guests[uid]; g != nil {
		g.stale = true
	}
}

// forget drops what is known of a guest that has ended.
func (a *agents) forget(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.guests, uid)
}
