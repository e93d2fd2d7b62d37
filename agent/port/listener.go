package port

import (
	"context"
	"net"
	"sync"
)

// listener hands over the connections of one protocol.
type listener struct {
	port  *Port
	proto string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*listener)(nil)

// Accept returns the next connection; its handshake is complete.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done: // also when connections wait: they are about to be closed
		return nil, l.closedError()
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, l.closedError()
	}
}

// Close takes the protocol out of the port; it can be listened to again.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.port.forget(l)
		close(l.done)
		for {
			select {
			case c := <-l.conns:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr returns the address that other hosts dial.
func (l *listener) Addr() net.Addr { return l.port.Addr() }

func (l *listener) closedError() error {
	return &net.OpError{Op: "accept", Net: l.proto, Addr: l.Addr(), Err: net.ErrClosed}
}

// deliver hands c over, or closes it when nobody takes it in time.
func (l *listener) deliver(ctx context.Context, c net.Conn) error {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
		return net.ErrClosed
	case <-ctx.Done():
		_ = c.Close()
		return ctx.Err()
	}
	// Close may have emptied the queue just before c came in.
	select {
	case <-l.done:
		select {
		case late := <-l.conns:
			_ = late.Close()
		default:
		}
	default:
	}
	return nil
}
