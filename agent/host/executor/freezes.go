package executor

import (
	"context"
	"errors"
	"sync"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
)

const (
	// recordFrozen says that the guest's file systems are frozen: when they are to be thawed,
	// as the time since the host booted, or frozenForever. It is a record, so that an agent
	// that starts anew thaws them in time.
	recordFrozen  = "frozen"
	frozenForever = "until-thawed"

	// thawPause is between attempts to thaw a guest whose agent does not do it, and
	// thawTimeout bounds one.
	thawPause   = 30 * time.Second
	thawTimeout = 30 * time.Second
)

// shownFrozen is what the status of a frozen guest shows.
const shownFrozen = "frozen"

// shownFreeze returns the fsFreezeStatus of a guest.
func shownFreeze(domain hypervisor.Domain) string {
	if IsFrozen(domain) {
		return shownFrozen
	}
	return ""
}

// IsFrozen reports whether a guest runs whose file systems somebody had frozen, and nobody has
// thawed as far as this host knows.
func IsFrozen(guest hypervisor.Domain) bool {
	return guest.State.Active() && guest.Records[recordFrozen] != ""
}

// Freeze implements guests.GuestAgents.
func (g Guests) Freeze(ctx context.Context, namespace, name string, limit time.Duration) error {
	domain, key, err := g.findAgent(ctx, namespace, name)
	if err != nil {
		return err
	}
	e, ref := g.executor, domain.Owner.Ref
	defer e.notify(keyOf(ref))
	if !e.thaws.beginRequest(ref.UID) {
		return busyFreezing(key)
	}
	defer e.thaws.endRequest(ref.UID)
	record := frozenForever
	if limit > 0 {
		record = (e.BootTime() + limit).String()
	}
	if err := e.Hypervisor.SetRecord(ctx, ref, recordFrozen, record); err != nil {
		return translate(key, err)
	}
	if err := e.Hypervisor.Freeze(ctx, ref); err != nil {
		// A guest that was too slow may freeze after all, also when nobody waits for it any more. So
		// the host thaws it from now on, until the guest says that it is thawed.
		if record = domain.Records[recordFrozen]; record == "" {
			record = e.BootTime().String()
		}
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
		defer cancel()
		return translate(key, errors.Join(err, e.Hypervisor.SetRecord(cleanUp, ref, recordFrozen, record)))
	}
	return nil
}

// busyFreezing is the refusal of a request about a guest whose file systems are being frozen or
// thawed: what the one does, the other would undo or forget.
func busyFreezing(key objects.Key) error {
	return fault.New(fault.Conflict, "instance %s: its file systems are being frozen or thawed", key).About(key.String()).WithRemedy("try again in a moment")
}

// Unfreeze implements guests.GuestAgents.
func (g Guests) Unfreeze(ctx context.Context, namespace, name string) error {
	domain, key, err := g.findAgent(ctx, namespace, name)
	if err != nil {
		return err
	}
	e, ref := g.executor, domain.Owner.Ref
	defer e.notify(keyOf(ref))
	if !e.thaws.beginRequest(ref.UID) {
		return busyFreezing(key)
	}
	defer e.thaws.endRequest(ref.UID)
	if err := e.thaw(ctx, ref); err != nil {
		return translate(key, err)
	}
	return nil
}

// findAgent returns the domain of an instance on this host whose guest agent can answer.
func (g Guests) findAgent(ctx context.Context, namespace, name string) (hypervisor.Domain, objects.Key, error) {
	key := objects.Key{Namespace: namespace, Name: name}
	domain, err := g.find(ctx, namespace, name)
	switch {
	case err != nil:
	case domain.State == hypervisor.StatePaused:
		err = pausedFault(namespace, name)
	case !domain.AgentConnected:
		err = translate(key, hypervisor.ErrNoAgent)
	}
	return domain, key, err
}

// thaw thaws a guest's file systems, and then forgets that they were frozen.
func (e *Executor) thaw(ctx context.Context, ref hypervisor.Ref) error {
	if err := e.Hypervisor.Thaw(ctx, ref); err != nil {
		return err
	}
	return e.Hypervisor.SetRecord(ctx, ref, recordFrozen, "")
}

// thaws are the guests, by UID, that this process is thawing because nobody has done so in
// time, or has tried to thaw a while ago.
type thaws struct {
	mu    sync.Mutex
	byUID map[string]*thawing
}

type thawing struct {
	running bool
	tried   time.Duration // when an attempt ended, since the host booted
	booted  bool          // the guest has booted anew, which thaws it
}

func newThaws() *thaws { return &thaws{byUID: map[string]*thawing{}} }

func (t *thaws) of(uid string) *thawing {
	if t.byUID[uid] == nil {
		t.byUID[uid] = &thawing{}
	}
	return t.byUID[uid]
}

// noteBoot stores that a guest has booted anew.
func (t *thaws) noteBoot(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(uid).booted = true
}

// takeBoot reports whether a guest has booted anew since the last call.
func (t *thaws) takeBoot(uid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.byUID[uid]
	if g == nil || !g.booted {
		return false
	}
	g.booted = false
	return true
}

// begin reports whether an attempt is due, and if so counts it as running; otherwise it
// returns the time until the next one.
func (t *thaws) begin(uid string, now time.Duration) (due bool, next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if due, next = t.dueIn(uid, now); due {
		t.of(uid).running = true
	}
	return due, next
}

// isDue reports whether begin would begin an attempt.
func (t *thaws) isDue(uid string, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	due, _ := t.dueIn(uid, now)
	return due
}

func (t *thaws) dueIn(uid string, now time.Duration) (due bool, next time.Duration) {
	g := t.byUID[uid]
	switch {
	case g == nil:
	case g.running:
		return false, thawPause
	case g.tried > 0 && g.tried+thawPause > now:
		return false, g.tried + thawPause - now
	}
	return true, thawPause
}

// beginRequest reports whether a request to freeze or thaw a guest may begin; it may not while
// another one or an attempt runs. What the guest did before it does not count any more.
func (t *thaws) beginRequest(uid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.of(uid)
	if g.running {
		return false
	}
	*g = thawing{running: true}
	return true
}

func (t *thaws) endRequest(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(uid).running = false
}

func (t *thaws) end(uid string, now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.of(uid)
	g.running, g.tried = false, now
}

// dropGuest forgets a guest that is gone.
func (t *thaws) dropGuest(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byUID, uid)
}

// watchFreeze thaws the guest's file systems when nobody has done so in time. No worker
// waits for it. watchFreeze returns the time until the next look, zero for never.
func (e *Executor) watchFreeze(ctx context.Context, r *run) time.Duration {
	record := r.domain.Records[recordFrozen]
	if booted := e.thaws.takeBoot(r.ref.UID); record == "" || !r.active() {
		return 0
	} else if booted {
		if err := e.Hypervisor.SetRecord(ctx, r.ref, recordFrozen, ""); err == nil {
			e.notify(keyOf(r.ref)) // with a new look at the domain
			return 0
		}
	}
	due, err := time.ParseDuration(record)
	if err != nil {
		return 0 // until somebody thaws them
	}
	if left := due - e.BootTime(); left > 0 {
		return left
	}
	next, err := e.startThaw(r.ref, "nobody has unfrozen a guest's file systems in time, so the host did")
	if err != nil {
		return thawPause
	}
	return next
}

// startThaw thaws a guest's file systems in a task, unless that is under way or was tried a
// moment ago. It returns the time until the next attempt. done is what the log says when they
// are thawed.
func (e *Executor) startThaw(ref hypervisor.Ref, done string) (next time.Duration, err error) {
	begin, next := e.thaws.begin(ref.UID, e.BootTime())
	if !begin {
		return next, nil
	}
	err = e.tasks.startTask(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, thawTimeout)
		defer cancel()
		err := e.thaw(ctx, ref)
		e.thaws.end(ref.UID, e.BootTime())
		// Also after a failure: who is to stop the guest then asks it to shut down as it is.
		defer e.notify(keyOf(ref))
		if err != nil {
			e.Logger.Warn("a guest's file systems are frozen and could not be thawed", "instance", ref.String(), "err", err, "retryIn", thawPause)
			return
		}
		e.Logger.Warn(done, "instance", ref.String())
	})
	if err != nil {
		e.thaws.end(ref.UID, e.BootTime())
	}
	return next, err
}
