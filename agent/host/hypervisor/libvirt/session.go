package libvirt

import (
	"fmt"
	"sync"

	"libvirt.org/go/libvirt"
)

// session is one connection with its callbacks.
type session struct {
	conn *libvirt.Connect
	// lost is closed when the connection breaks.
	lost      chan struct{}
	callbacks []int
}

// keepAliveMisses is how many messages may go unanswered.
const keepAliveMisses = 3

// connect opens a connection and, with register, registers for its events.
func (d *Driver) connect(register func(*session) error) (*session, error) {
	conn, err := libvirt.NewConnect(d.cfg.URI)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, lost: make(chan struct{})}
	var once sync.Once
	if err := conn.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) {
		once.Do(func() { close(s.lost) })
	}); err != nil {
		_, _ = conn.Close()
		return nil, fmt.Errorf("watch the connection: %w", err)
	}
	if err := conn.SetKeepAlive(int(d.cfg.KeepAlive.Seconds()), keepAliveMisses); err != nil {
		s.close()
		return nil, fmt.Errorf("set keep-alive: %w", err)
	}
	if register == nil {
		return s, nil
	}
	if err := register(s); err != nil {
		s.close()
		return nil, fmt.Errorf("register for events: %w", err)
	}
	return s, nil
}

// close removes the callbacks and the reference to the connection. It ignores errors:
// they mean that the daemon is gone, which is the usual reason to close a session.
func (s *session) close() {
	for _, id := range s.callbacks {
		_ = s.conn.DomainEventDeregister(id)
	}
	_ = s.conn.UnregisterCloseCallback()
	_, _ = s.conn.Close()
}
