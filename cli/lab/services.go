package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// waitSecond waits a second or until ctx ends.
func waitSecond(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

// serveRegistryProxy makes the lab's registry reachable on the host's own
// loopback: a UNIX socket crosses network namespaces, and clients treat a
// loopback registry as one that needs no TLS.
func serveRegistryProxy(ctx context.Context, c hostConfig) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", c.RegistryPort))
	if err != nil {
		return fmt.Errorf("listen for the registry: %w", err)
	}
	return forwardAll(ctx, listener, "unix", c.RegistrySocket)
}

// forwardAll joins every client of the listener to the registry at address,
// until ctx ends.
func forwardAll(ctx context.Context, listener net.Listener, network, address string) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a registry client: %w", err)
		}
		go forwardClient(conn, network, address)
	}
}

// forwardClient joins a client to the registry until both directions have ended.
func forwardClient(client net.Conn, network, address string) {
	defer client.Close()
	registry, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer registry.Close()
	var both sync.WaitGroup
	both.Go(func() { copyDirection(registry, client) })
	both.Go(func() { copyDirection(client, registry) })
	both.Wait()
}

// copyDirection copies one direction and tells the receiver that it has ended.
func copyDirection(to, from net.Conn) {
	_, _ = io.Copy(to, from) // either end may go at any time
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
