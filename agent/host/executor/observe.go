package executor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards"
)

const (
	// listTimeout bounds one list of the domains.
	listTimeout = 30 * time.Second
	// minListPause follows a list of domains that failed, and doubles up to
	// maxListPause.
	minListPause = time.Second
	maxListPause = 30 * time.Second
)

// Observe follows the hypervisor's events until ctx ends. It notifies the listeners
// of the instance of every domain that changed, and of all instances after events
// were lost.
func (e *Executor) Observe(ctx context.Context) error {
	events := e.Hypervisor.Subscribe(ctx)
	var again <-chan time.Time
	pause := minListPause
	list := func() {
		err := e.notifyAll(ctx)
		if err == nil {
			again, pause = nil, minListPause
			return
		}
		e.Logger.Warn("domains could not be listed after events were lost", "err", err, "retryIn", pause)
		again, pause = time.After(pause), min(2*pause, maxListPause)
	}
	for {
		select {
		case event, open := <-events:
			switch {
			case open && event.Kind == hypervisor.EventResync:
				list()
			case open:
				e.handleEvent(event)
			case ctx.Err() != nil:
				return nil
			default:
				return fmt.Errorf("follow the hypervisor: %w", hypervisor.ErrUnavailable)
			}
		case <-again:
			list()
		}
	}
}

// handleEvent handles an event: it notifies the listeners of the instance of its domain.
func (e *Executor) handleEvent(event hypervisor.Event) {
	switch event.Kind {
	case hypervisor.EventReboot:
		e.thaws.noteBoot(event.Ref.UID)
		e.agents.markStale(event.Ref.UID)
	case hypervisor.EventAgent:
		e.agents.markStale(event.Ref.UID)
	case hypervisor.EventIOError:
		e.recordIOError(event)
	case hypervisor.EventState, hypervisor.EventUndefined:
	default:
		return
	}
	e.notify(keyOf(event.Ref))
}

// recordIOError records an event that names the disk that failed. The recorder bounds how many
// events an instance gets.
func (e *Executor) recordIOError(event hypervisor.Event) {
	vmi, ok := e.Instances.Get(keyOf(event.Ref))
	if !ok || string(vmi.UID) != event.Ref.UID {
		return
	}
	cause := event.Detail
	switch {
	case strings.HasPrefix(cause, "enospc"), strings.HasPrefix(cause, "nospace"):
		cause = "no space is left where it is stored"
	case cause == "":
		cause = "the host could not read or write it"
	}
	e.Events.Event(vmi, corev1.EventTypeWarning, "IOerror", fmt.Sprintf("I/O error on the disk of volume %s: %s", event.Device, cause))
}

func keyOf(ref hypervisor.Ref) stewards.Key {
	return stewards.Key{Namespace: ref.Namespace, Name: ref.Name}
}

func (e *Executor) notify(key stewards.Key) {
	e.mu.Lock()
	listeners := make([]func(stewards.Key), 0, len(e.listeners))
	for _, listener := range e.listeners {
		listeners = append(listeners, listener)
	}
	e.mu.Unlock()
	for _, listener := range listeners {
		listener(key)
	}
}

// notifyAll notifies the listeners of every instance that has, or had, a domain, disks
// or addresses on this host: the lost events may be about a domain that is gone.
func (e *Executor) notifyAll(ctx context.Context) error {
	domains, err := e.listedKeys(ctx)
	if err != nil {
		return err
	}
	for _, key := range distinct(append(e.traces.keys(), domains...)) {
		e.notify(key)
	}
	return nil
}

// Subscribe implements stewards.Source. fn is called at once with all present keys:
// no event names an instance that ended while no agent ran.
func (e *Executor) Subscribe(fn func(stewards.Key)) (cancel func()) {
	e.mu.Lock()
	id := e.nextID
	e.nextID++
	e.listeners[id] = fn
	e.mu.Unlock()
	for _, key := range e.Keys() {
		fn(key)
	}
	return func() {
		e.mu.Lock()
		delete(e.listeners, id)
		e.mu.Unlock()
	}
}

// Keys implements stewards.Source. It returns every instance of which this host has
// a domain, disks, addresses or logs, so that leftovers of instances that no longer
// exist are reconciled as well.
func (e *Executor) Keys() []stewards.Key {
	keys := append(e.traces.keys(), e.logs.keys(e.Logger)...)
	domains, err := e.listedKeys(context.Background())
	if err != nil {
		e.Logger.Warn("domains could not be listed", "err", err)
	}
	return distinct(append(keys, domains...))
}

// listedKeys returns the instances that have a domain here.
func (e *Executor) listedKeys(ctx context.Context) ([]stewards.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	domains, err := e.Hypervisor.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	keys := make([]stewards.Key, 0, len(domains))
	for _, domain := range domains {
		keys = append(keys, keyOf(domain.Owner.Ref))
	}
	return keys, nil
}

func distinct(keys []stewards.Key) []stewards.Key {
	slices.SortFunc(keys, func(a, b stewards.Key) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(keys)
}

// WaitForSync implements stewards.Source.
func (e *Executor) WaitForSync(ctx context.Context) error {
	if err := e.Instances.WaitForSync(ctx); err != nil {
		return fmt.Errorf("wait for the instances: %w", err)
	}
	return nil
}
