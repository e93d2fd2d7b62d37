package executor

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwards are the connections to guests' ports, by the instance's UID. Nothing else tells
// them that the guest has ended.
type forwards struct {
	mu    sync.Mutex
	byUID map[string]map[*forwardedConn]struct{}
	all   int // of all guests
}

func newForwards() *forwards { return &forwards{byUID: map[string]map[*forwardedConn]struct{}{}} }

// errTooManyForwards refuses a connection.
var errTooManyForwards = fmt.Errorf("too many connections are forwarded: to a guest at most %d, and to all guests of its host %d", maxForwards, maxHostForwards)

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
	if len(f.byUID[uid]) >= maxForwards || f.all >= maxHostForwards {
		return false
	}
	if f.byUID[uid] == nil {
		f.byUID[uid] = map[*forwardedConn]struct{}{}
	}
	f.byUID[uid][conn] = struct{}{}
	f.all++
	return true
}

func (f *forwards) remove(uid string, conn *forwardedConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, open := f.byUID[uid][conn]; !open {
		return // its guest has ended
	}
	f.all--
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
	f.all -= len(f.byUID[uid])
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
