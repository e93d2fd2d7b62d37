package gossip_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

// refusing is a host that can open streams to others and write nothing to them, as when
// the other end resets each connection.
type refusing struct{ *gossiptest.Host }

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (h refusing) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := h.Host.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	return mute{conn}, nil
}

type mute struct{ net.Conn }

// Write implements net.Conn.
func (mute) Write([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

// A member whose streams break at the first byte can shut down.
func TestShutdownAfterStreamsBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		cfg := gossip.DefaultConfig()
		cfg.Name, cfg.Mesh, cfg.Transport = "other", "mesh", refusing{m.Network.Host("other")}
		g, err := gossip.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Join(context.Background(), []string{m.Members[0].Addr()}); err == nil {
			t.Error("a member joined without a stream")
		}
		ended := make(chan struct{})
		go func() {
			g.Shutdown()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Minute):
			t.Fatal("the member does not shut down")
		}
	})
}
