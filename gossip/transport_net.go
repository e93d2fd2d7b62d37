package gossip

import (
	"context"
	"log"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// netTransport is memberlist's transport over UDP and TCP. Unlike memberlist's, its
// dials end when the transport is shut down, not only when they time out.
type netTransport struct {
	*memberlist.NetTransport
	dial   func(addr string, timeout time.Duration) (net.Conn, error)
	cancel context.CancelFunc
}

var _ memberlist.NodeAwareTransport = (*netTransport)(nil)

func newNetTransport(addr string, port int, logger *log.Logger) (*netTransport, error) {
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{addr}, BindPort: port, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	dial := func(addr string, timeout time.Duration) (net.Conn, error) {
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, "tcp", addr)
	}
	return &netTransport{nt, dial, cancel}, nil
}

// DialTimeout implements memberlist.Transport.
func (t *netTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.dial(addr, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *netTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.dial(a.Addr, timeout)
}

// Shutdown implements memberlist.Transport.
func (t *netTransport) Shutdown() error {
	t.cancel()
	return t.NetTransport.Shutdown()
}
