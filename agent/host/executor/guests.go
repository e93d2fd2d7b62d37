package executor

import (
	"context"
	"errors"
	"fmt"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/guests"
)

// Guests reaches the guests that run on this host. It serves the requests of
// package guests.
type Guests struct{ executor *Executor }

var _ guests.Instances = Guests{}

// Guests returns a Guests that reaches the guests of this executor's host.
func (e *Executor) Guests() Guests { return Guests{e} }

// find returns the domain of an instance on this host.
func (g Guests) find(ctx context.Context, namespace, name string) (hypervisor.Domain, error) {
	key := objects.Key{Namespace: namespace, Name: name}
	vmi, ok := g.executor.Instances.Get(key)
	if !ok {
		return hypervisor.Domain{}, fault.New(fault.NotFound, "instance %s: %w", key, fault.NotFound).About(key.String())
	}
	domain, err := g.executor.Hypervisor.Get(ctx, domain.Ref(vmi))
	if err != nil {
		return hypervisor.Domain{}, translate(key, err)
	}
	if !domain.State.Active() {
		return hypervisor.Domain{}, translate(key, hypervisor.ErrNotRunning)
	}
	return domain, nil
}

// codeOf returns the code by which other hosts and users know an error of the
// hypervisor.
func codeOf(err error) fault.Code {
	for _, known := range []struct {
		err  error
		code fault.Code
	}{
		// The instance exists, so a domain that does not is a guest that does not run.
		{hypervisor.ErrNotFound, fault.NotRunning},
		{hypervisor.ErrNotRunning, fault.NotRunning},
		{hypervisor.ErrNoAgent, fault.NoGuestAgent},
		{hypervisor.ErrNoDevice, fault.Invalid},
		{hypervisor.ErrInvalid, fault.Invalid},
		{hypervisor.ErrUnsupported, fault.Conflict},
		{hypervisor.ErrRefused, fault.Conflict},
		{hypervisor.ErrConflict, fault.Conflict},
		{hypervisor.ErrRunning, fault.Conflict},
		{hypervisor.ErrMigrationLost, fault.Internal},
		{hypervisor.ErrUnavailable, fault.Unavailable},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return fault.CodeOf(err)
}

// translate turns an error of the hypervisor about an instance into a fault.
func translate(key objects.Key, err error) error {
	code := codeOf(err)
	switch code {
	case fault.NotRunning, fault.NoGuestAgent:
		return fault.New(code, "instance %s: %w", key, code).About(key.String())
	}
	var known *hypervisor.Fault
	if errors.As(err, &known) {
		told := fault.New(code, "instance %s: %w", key, err).About(key.String())
		told.Sentence, told.Remedy = fmt.Sprintf("instance %s: %s", key, known.Sentence), known.Remedy
		return told
	}
	return fault.New(code, "instance %s: %w", key, err).About(key.String())
}

// Pause implements guests.Instances.
func (g Guests) Pause(ctx context.Context, namespace, name string) error {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if domain.State == hypervisor.StatePaused {
		return fault.New(fault.Conflict, "instance %s/%s is already paused", namespace, name).About(namespace + "/" + name)
	}
	if err := g.executor.Hypervisor.Suspend(ctx, domain.Owner.Ref); err != nil {
		return translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return nil
}

// Unpause implements guests.Instances.
func (g Guests) Unpause(ctx context.Context, namespace, name string) error {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if domain.State != hypervisor.StatePaused {
		return fault.New(fault.Conflict, "instance %s/%s is not paused", namespace, name).About(namespace + "/" + name)
	}
	if err := g.executor.Hypervisor.Resume(ctx, domain.Owner.Ref); err != nil {
		return translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return nil
}

// Reboot implements guests.Instances.
func (g Guests) Reboot(ctx context.Context, namespace, name string) error {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if domain.State == hypervisor.StatePaused {
		return pausedFault(namespace, name)
	}
	if err := g.executor.Hypervisor.Reboot(ctx, domain.Owner.Ref); err != nil {
		return translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return nil
}

// Reset implements guests.Instances.
func (g Guests) Reset(ctx context.Context, namespace, name string) error {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if err := g.executor.Hypervisor.Reset(ctx, domain.Owner.Ref); err != nil {
		return translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return nil
}

// pausedFault refuses what a guest whose CPUs are stopped cannot do.
func pausedFault(namespace, name string) error {
	return fault.New(fault.Conflict, "instance %s/%s is paused", namespace, name).About(namespace + "/" + name)
}
