package executor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards"
)

// listTimeout bounds a list of domains that no context bounds.
const listTimeout = 30 * time.Second

// Observe follows the hypervisor until ctx ends: it names the instance of
// every domain that changed, and all of them after events were lost.
func (e *Executor) Observe(ctx context.Context) error {
	for event := range e.Hypervisor.Subscribe(ctx) {
		switch event.Kind {
		case hypervisor.EventResync:
			e.notifyAll(ctx)
		case hypervisor.EventAgent, hypervisor.EventReboot:
			e.agents.doubt(event.Ref.UID)
			e.notify(keyOf(event.Ref))
		case hypervisor.EventState, hypervisor.EventUndefined, hypervisor.EventIOError:
			e.notify(keyOf(event.Ref))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil
	}
	return fmt.Errorf("follow the hypervisor: %w", hypervisor.ErrUnavailable)
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

func (e *Executor) notifyAll(ctx context.Context) {
	domains, err := e.Hypervisor.List(ctx)
	if err != nil {
		e.Logger.Warn("domains could not be listed after events were lost", "err", err)
		return
	}
	for _, domain := range domains {
		e.notify(keyOf(domain.Owner.Ref))
	}
}

// Subscribe implements controller.Source. The subscriber hears of what there is
// already: nothing else names an instance that ended while no agent looked.
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

// Keys implements controller.Source: the instances that this host has anything
// of, so that what is here without an instance is looked at as well.
func (e *Executor) Keys() []stewards.Key {
	keys := append(e.traces.keys(), e.logs.keys(e.Logger)...)
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	domains, err := e.Hypervisor.List(ctx)
	if err != nil {
		e.Logger.Warn("domains could not be listed", "err", err)
	}
	for _, domain := range domains {
		keys = append(keys, keyOf(domain.Owner.Ref))
	}
	slices.SortFunc(keys, func(a, b stewards.Key) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(keys)
}

// WaitForSync implements controller.Source.
func (e *Executor) WaitForSync(ctx context.Context) error {
	if err := e.Instances.WaitForSync(ctx); err != nil {
		return fmt.Errorf("wait for the instances: %w", err)
	}
	return nil
}
