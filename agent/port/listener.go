package port

import (
	"context"
	"net"
	"sync"
)

// listener returns the accepted connections of one protocol.
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
	case <-l.done: // checked first: Close is about to close waiting connections
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

// Close removes the protocol from the port. Listen may be called for it again.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.port.removeListener(l)
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

// deliverConn passes c to Accept, or closes it if nobody accepts it in time.
func (l *listener) deliverConn(ctx context.Context, c net.Conn) error {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
		return net.ErrClosed
	case <-ctx.Done():
		_ = c.Close()
		return ctx.Err()
	}
	// Close may have drained the queue just before c was added.
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
