package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/guests"
)

const (
	// dialTimeout bounds how long a guest may take to accept a forwarded connection.
	dialTimeout = 10 * time.Second
	// maxForwards bounds the forwarded connections of a guest.
	maxForwards = 256
)

// Stream implements guests.Instances.
func (g Guests) Stream(ctx context.Context, namespace, name string, request guests.StreamRequest) (io.ReadWriteCloser, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	ref := domain.Owner.Ref
	var stream io.ReadWriteCloser
	switch request.Kind {
	case guests.Console:
		stream, err = g.executor.consoles.openSession(ref.UID, false, func() (io.ReadWriteCloser, error) {
			return g.executor.Hypervisor.Console(ctx, ref)
		})
	case guests.VNC:
		stream, err = g.executor.displays.openSession(ref.UID, request.Preserve, func() (io.ReadWriteCloser, error) {
			return g.executor.Hypervisor.VNC(ctx, ref)
		})
	case guests.Forward:
		return g.forward(ctx, domain, request)
	default:
		return nil, fault.New(fault.Invalid, "unknown stream kind %q", request.Kind)
	}
	if errors.Is(err, errInUse) {
		return nil, fault.New(fault.Conflict, "%w", errInUse).About(ref.String())
	}
	if err != nil {
		return nil, translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return stream, nil
}

// Screenshot implements guests.Instances.
func (g Guests) Screenshot(ctx context.Context, namespace, name string, wake bool) ([]byte, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	picture, err := g.executor.Hypervisor.Screenshot(ctx, domain.Owner.Ref, wake)
	if err != nil {
		return nil, translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return picture, nil
}

// forward connects to a port of the guest, at the first address that this host has given it.
// What the guest itself calls its address does not count: it could name a service of the
// host, or of another guest.
func (g Guests) forward(ctx context.Context, domain hypervisor.Domain, request guests.StreamRequest) (io.ReadWriteCloser, error) {
	ref := domain.Owner.Ref
	switch {
	case request.Protocol != guests.TCP && request.Protocol != guests.UDP:
		return nil, fault.InField("protocol", "must be %s or %s", guests.TCP, guests.UDP)
	case request.Port == 0:
		return nil, fault.InField("port", "must be a number from 1 to 65535")
	case domain.State == hypervisor.StatePaused:
		return nil, pausedFault(ref.Namespace, ref.Name)
	}
	address := g.givenAddress(ref)
	if address == "" {
		return nil, fault.New(fault.Invalid, "instance %s has no address that its host has given it", ref).About(ref.String()).
			WithRemedy("connect it to the default network (pod: {}), or reach it over its own network")
	}
	target := net.JoinHostPort(address, strconv.Itoa(int(request.Port)))
	conn, err := g.executor.forwards.dial(ctx, ref.UID, g.executor.GuestDevice, request.Protocol, target)
	if errors.Is(err, errTooManyForwards) {
		return nil, fault.New(fault.Conflict, "instance %s: %w", ref, err).About(ref.String())
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "instance %s does not accept the connection: %w", ref, err).About(ref.String())
	}
	return conn, nil
}

// givenAddress returns the first address of an instance that this host has given it; empty
// if there is none.
func (g Guests) givenAddress(ref hypervisor.Ref) string {
	vmi, ok := g.executor.Instances.Get(objects.Key{Namespace: ref.Namespace, Name: ref.Name})
	if !ok || string(vmi.UID) != ref.UID {
		return ""
	}
	for _, card := range g.executor.Network.Interfaces(vmi) {
		if card.IP != "" {
			return card.IP
		}
	}
	return ""
}

// forwards are the connections to guests' ports, by the instance's UID. Nothing else tells
// them that the guest has ended.
type forwards struct {
	mu    sync.Mutex
	byUID map[string]map[*forwardedConn]struct{}
}

func newForwards() *forwards { return &forwards{byUID: map[string]map[*forwardedConn]struct{}{}} }

// errTooManyForwards refuses a connection.
var errTooManyForwards = errors.New("it has " + strconv.Itoa(maxForwards) + " forwarded connections already")

// dial opens a connection for a guest, through a device of the host.
func (f *forwards) dial(ctx context.Context, uid, device, protocol, target string) (net.Conn, error) {
	conn := &forwardedConn{closed: func(c *forwardedConn) { f.remove(uid, c) }}
	if !f.add(uid, conn) {
		return nil, errTooManyForwards
	}
	dialer := net.Dialer{Timeout: dialTimeout, Control: throughDevice(device)}
	opened, err := dialer.DialContext(ctx, protocol, target)
	if err != nil {
		f.remove(uid, conn)
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	conn.Conn = opened
	if _, open := f.byUID[uid][conn]; !open {
		_ = opened.Close() // the guest has ended meanwhile
	}
	return conn, nil
}

// throughDevice binds a socket to a device of the host, so that no route leads its packets
// elsewhere: while the guests' bridge is away, another network of the host may have their addresses.
func throughDevice(device string) func(network, address string, conn syscall.RawConn) error {
	return func(_, _ string, conn syscall.RawConn) error {
		var err error
		if controlErr := conn.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); controlErr != nil {
			err = controlErr
		}
		if err != nil {
			return fmt.Errorf("bind the connection to %s: %w", device, err)
		}
		return nil
	}
}

func (f *forwards) add(uid string, conn *forwardedConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.byUID[uid]) >= maxForwards {
		return false
	}
	if f.byUID[uid] == nil {
		f.byUID[uid] = map[*forwardedConn]struct{}{}
	}
	f.byUID[uid][conn] = struct{}{}
	return true
}

func (f *forwards) remove(uid string, conn *forwardedConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delete(f.byUID[uid], conn); len(f.byUID[uid]) == 0 {
		delete(f.byUID, uid)
	}
}

// endGuest closes the connections of a guest that has ended.
func (f *forwards) endGuest(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.byUID[uid] {
		if conn.Conn != nil {
			_ = conn.Conn.Close()
		}
	}
	delete(f.byUID, uid)
}

// forwardedConn is a connection to a port of a guest.
type forwardedConn struct {
	net.Conn // nil until it is open
	closed   func(*forwardedConn)
}

// Close implements net.Conn.
func (c *forwardedConn) Close() error {
	c.closed(c)
	return c.Conn.Close()
}
