package port_test

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// Many clients at once at one address, as behind a load balancer or from a script, are all
// served.
func TestManyClientsShareAnAddress(t *testing.T) {
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", identitytest.NewMesh(t).First
	cfg.Known = func(netip.Addr) bool { return false }
	p, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.API(); err != nil { // the connections wait to be accepted
		t.Fatal(err)
	}
	var begun, ended sync.WaitGroup
	const clients = 200
	begun.Add(clients)
	for range clients {
		ended.Go(func() {
			raw, err := net.Dial("tcp", p.Addr().String())
			begun.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer raw.Close()
			begun.Wait() // all connections are open before the first says something
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if err := c.Handshake(); err != nil {
				t.Error(err)
			}
		})
	}
	ended.Wait()
}
