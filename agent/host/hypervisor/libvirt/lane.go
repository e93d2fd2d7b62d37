package libvirt

import (
	"context"
	"fmt"
	"sync"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// lane is a connection for one sort of calls, and bounds how many of them are under
// way. The daemon stops reading from a connection that has max_client_requests open
// calls, by default 5. Short calls would then wait for long ones. And because the
// daemon does not read the keep-alive messages either, the connection would be dropped.
// All lanes together have at most as many calls under way as the daemon has workers,
// max_workers, by default 20.
//
//	queries  what is answered from the daemon's memory, and events
//	acts     changes of a domain
//	ends     Destroy, which fencing relies on, and which therefore waits for nothing else
//	starts   Start, which may take minutes
//	agents   questions to guests, which answer when they like, and thawing them
//	freezes  freezing guests, which may take long, so that no guest that was frozen waits for it
//	moves    migrations, which may take hours
//	counters statistics, which an emulator that hangs never gives
//
// A lane other than queries connects when it is first used, and again after a loss.
type lane struct {
	name  string
	slots chan struct{}

	mu      sync.Mutex
	session *session // nil while there is none
}

func newLane(name string, width int) *lane {
	return &lane{name: name, slots: make(chan struct{}, width)}
}

// connection returns the lane's connection, and makes one when there is none. It may
// hang as long as the daemon does.
func (l *lane) connection(connect func() (*session, error)) (*libvirt.Connect, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		select {
		case <-l.session.lost:
			l.session.close()
			l.session = nil
		default:
		}
	}
	if l.session == nil {
		s, err := connect()
		if err != nil {
			return nil, fmt.Errorf("%w: connect for %s: %w", hypervisor.ErrUnavailable, l.name, err)
		}
		l.session = s
	}
	return referTo(l.session.conn)
}

// close ends the lane's connection.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		l.session.close()
		l.session = nil
	}
}

// referTo adds a reference to conn, so that conn stays valid when the connection is
// lost meanwhile.
func referTo(conn *libvirt.Connect) (*libvirt.Connect, error) {
	if err := conn.Ref(); err != nil {
		return nil, fmt.Errorf("%w: %w", hypervisor.ErrUnavailable, err)
	}
	return conn, nil
}

// begin waits until the lane has room, and counts the call as under way until end is
// called.
func (d *Driver) begin(ctx context.Context, l *lane, act string) error {
	if !d.available() {
		return hypervisor.ErrUnavailable
	}
	select {
	case l.slots <- struct{}{}:
	default:
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%d other %s are under way: %w", cap(l.slots), l.name, ctx.Err())
		case <-d.stopped:
			return hypervisor.ErrUnavailable
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil || d.closed {
		<-l.slots
		return hypervisor.ErrUnavailable
	}
	d.calls[act]++
	d.wg.Add(1)
	return nil
}

func (d *Driver) available() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil && !d.closed
}

func (d *Driver) end(l *lane, act string) {
	d.mu.Lock()
	if d.calls[act]--; d.calls[act] == 0 {
		delete(d.calls, act)
	}
	d.mu.Unlock()
	<-l.slots
	d.wg.Done()
}

// connectionOf returns the connection of l, with a reference that the caller closes.
func (d *Driver) connectionOf(l *lane) (*libvirt.Connect, error) {
	if l != d.queries {
		return l.connection(func() (*session, error) { return d.connect(nil) })
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return nil, hypervisor.ErrUnavailable
	}
	return referTo(d.conn)
}

// call runs fn with a connection and returns its result. If ctx ends first, call
// returns the context's error. Calls into libvirt cannot be interrupted, so fn then
// continues, and discard gets its result and frees what that holds.
func call[T any](ctx context.Context, d *Driver, l *lane, act string, discard func(T), fn func(*libvirt.Connect) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, fmt.Errorf("%s: %w", act, err)
	}
	if err := d.begin(ctx, l, act); err != nil {
		return zero, fmt.Errorf("%s: %w", act, err)
	}
	type result struct {
		value T
		err   error
	}
	done, given := make(chan result), make(chan struct{})
	defer close(given)
	go func() {
		defer d.end(l, act)
		var value T
		conn, err := d.connectionOf(l)
		if err == nil {
			// The reference is released before the slot. An error means that the daemon
			// is gone.
			defer func() { _, _ = conn.Close() }()
			value, err = fn(conn)
		}
		select {
		case done <- result{value, err}:
		case <-given:
			if err == nil && discard != nil {
				discard(value)
			}
		}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return zero, fmt.Errorf("%s: %w", act, d.translate(act, r.err))
		}
		return r.value, nil
	case <-ctx.Done():
		return zero, fmt.Errorf("%s: %w", act, ctx.Err())
	}
}

// onDomain runs fn with the domain of ref, after its metadata has shown that it is this
// very domain.
func onDomain[T any](ctx context.Context, d *Driver, l *lane, act string, ref hypervisor.Ref, discard func(T), fn func(*libvirt.Connect, *libvirt.Domain) (T, error)) (T, error) {
	return call(ctx, d, l, act+" "+ref.String(), discard, func(conn *libvirt.Connect) (T, error) {
		var zero T
		dom, err := d.lookup(conn, ref)
		if err != nil {
			return zero, err
		}
		defer dom.Free()
		return fn(conn, dom)
	})
}

// act is onDomain for calls without a result.
func (d *Driver) act(ctx context.Context, l *lane, what string, ref hypervisor.Ref, fn func(*libvirt.Domain) error) error {
	_, err := onDomain(ctx, d, l, what, ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, fn(dom)
	})
	return err
}
