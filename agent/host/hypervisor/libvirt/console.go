package libvirt

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// Console implements hypervisor.Consoles.
func (d *Driver) Console(ctx context.Context, ref hypervisor.Ref) (io.ReadWriteCloser, error) {
	closeIt := func(c *console) { _ = c.Close() }
	c, err := onDomain(ctx, d, d.queries, "open console of", ref, closeIt, func(conn *libvirt.Connect, dom *libvirt.Domain) (*console, error) {
		if active, err := dom.IsActive(); err != nil || !active {
			return nil, orNotRunning(err)
		}
		return openConsole(conn, dom)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func orNotRunning(err error) error {
	if err != nil {
		return err
	}
	return hypervisor.ErrNotRunning
}

// console makes an io.ReadWriteCloser of a stream of libvirt. The stream is
// non-blocking, and events report when it is ready, because a blocking stream cannot be
// closed while somebody reads from it.
type console struct {
	stream *libvirt.Stream

	mu       sync.Mutex
	changed  *sync.Cond
	readable bool
	writable bool
	ended    bool // by the other side
	closed   bool // by us
	busy     int  // calls into the stream under way
}

func openConsole(conn *libvirt.Connect, dom *libvirt.Domain) (*console, error) {
	stream, err := conn.NewStream(libvirt.STREAM_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if err := dom.OpenConsole("", stream, libvirt.DOMAIN_CONSOLE_FORCE); err != nil {
		_ = stream.Free()
		// libvirt calls a domain without a console an internal error.
		if is(err, libvirt.ERR_INTERNAL_ERROR) {
			return nil, fmt.Errorf("%w: %w", hypervisor.ErrNoDevice, err)
		}
		return nil, err
	}
	c := &console{stream: stream, readable: true, writable: true}
	c.changed = sync.NewCond(&c.mu)
	if err := stream.EventAddCallback(c.wanted(), c.onEvent); err != nil {
		_ = stream.Abort()
		_ = stream.Free()
		return nil, err
	}
	return c, nil
}

// onEvent runs in the event loop. The loop reports a condition again and again as long
// as it lasts. So once a condition was reported, the console subscribes to it again
// only after it has used up what was ready.
func (c *console) onEvent(_ *libvirt.Stream, events libvirt.StreamEventType) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readable = c.readable || events&libvirt.STREAM_EVENT_READABLE != 0
	c.writable = c.writable || events&libvirt.STREAM_EVENT_WRITABLE != 0
	if events&(libvirt.STREAM_EVENT_ERROR|libvirt.STREAM_EVENT_HANGUP) != 0 {
		c.ended, c.readable, c.writable = true, true, true
	}
	c.changed.Broadcast()
	if !c.closed {
		// An error means that the stream is gone; the next call will fail.
		_ = c.stream.EventUpdateCallback(c.wanted())
	}
}

// wanted returns the events to subscribe to. The caller holds the lock.
func (c *console) wanted() libvirt.StreamEventType {
	if c.ended {
		return 0
	}
	events := libvirt.STREAM_EVENT_ERROR | libvirt.STREAM_EVENT_HANGUP
	if !c.readable {
		events |= libvirt.STREAM_EVENT_READABLE
	}
	if !c.writable {
		events |= libvirt.STREAM_EVENT_WRITABLE
	}
	return events
}

// wouldBlock is the count that the bindings return when a call would have to wait.
const wouldBlock = -2

// Read implements io.Reader. It returns io.EOF when the guest ends or another session
// takes the console.
func (c *console) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := c.await(&c.readable); err != nil {
			return 0, err
		}
		n, err := c.stream.Recv(p)
		ended := c.release()
		switch {
		case err != nil:
			return 0, io.EOF
		case n > 0:
			return n, nil
		case ended:
			return 0, io.EOF
		}
		if err := c.spent(&c.readable); err != nil {
			return 0, io.EOF
		}
	}
}

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		if err := c.await(&c.writable); err != nil {
			return written, err
		}
		n, err := c.stream.Send(p[written:])
		ended := c.release()
		switch {
		case err != nil:
			return written, fmt.Errorf("write to console: %w", err)
		case n != wouldBlock:
			written += n
			continue
		case ended:
			return written, io.ErrClosedPipe
		}
		if err := c.spent(&c.writable); err != nil {
			return written, fmt.Errorf("write to console: %w", err)
		}
	}
	return written, nil
}

// await blocks until *ready, and counts a call into the stream as under way until
// release is called.
func (c *console) await(ready *bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !*ready && !c.closed {
		c.changed.Wait()
	}
	if c.closed {
		return io.ErrClosedPipe
	}
	c.busy++
	return nil
}

func (c *console) release() (ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy--
	c.changed.Broadcast()
	return c.ended
}

// spent notes that a call would have blocked, and subscribes to the event that reports
// when it would not.
func (c *console) spent(ready *bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	*ready = c.ended
	if c.closed || c.ended {
		return nil
	}
	return c.stream.EventUpdateCallback(c.wanted())
}

// Close implements io.Closer and releases a blocked Read or Write.
func (c *console) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.changed.Broadcast()
	for c.busy > 0 {
		c.changed.Wait()
	}
	c.mu.Unlock()
	_ = c.stream.EventRemoveCallback()
	// A stream whose other end is gone cannot be finished; it is aborted.
	_ = c.stream.Abort()
	return c.stream.Free()
}

// VNC implements hypervisor.Consoles.
func (d *Driver) VNC(ctx context.Context, ref hypervisor.Ref) (net.Conn, error) {
	closeIt := func(c net.Conn) { _ = c.Close() }
	return onDomain(ctx, d, d.queries, "open display of", ref, closeIt, func(_ *libvirt.Connect, dom *libvirt.Domain) (net.Conn, error) {
		if active, err := dom.IsActive(); err != nil || !active {
			return nil, orNotRunning(err)
		}
		// The caller has checked who may see the display, so QEMU need not
		// authenticate.
		file, err := dom.OpenGraphicsFD(0, libvirt.DOMAIN_OPEN_GRAPHICS_SKIPAUTH)
		if err != nil {
			if is(err, libvirt.ERR_INTERNAL_ERROR) || is(err, libvirt.ERR_INVALID_ARG) || is(err, libvirt.ERR_CONFIG_UNSUPPORTED) {
				return nil, fmt.Errorf("%w: %w", hypervisor.ErrNoDevice, err)
			}
			return nil, err
		}
		defer file.Close()
		return net.FileConn(file)
	})
}
