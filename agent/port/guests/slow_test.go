package guests

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
)

// slowGuests take their time.
type slowGuests struct {
	guests
	takes time.Duration
}

func (g *slowGuests) Freeze(ctx context.Context, _, _ string, _ time.Duration) error {
	return g.wait(ctx)
}
func (g *slowGuests) Unfreeze(ctx context.Context, _, _ string) error { return g.wait(ctx) }
func (g *slowGuests) Pause(ctx context.Context, _, _ string) error    { return g.wait(ctx) }

func (g *slowGuests) wait(ctx context.Context) error {
	select {
	case <-time.After(g.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pipes is a listener without a network.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// Who freezes or unfreezes a guest of another host waits as long as that host may take.
func TestASlowGuestOfAnotherHostIsFrozenAndUnfrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &slowGuests{takes: 40 * time.Second}
		conns := make(pipes)
		server := &http.Server{Handler: NewHandler(far, far, slog.New(slog.DiscardHandler))}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(conns) }()
		defer func() { close(conns); <-served; _ = server.Close() }()
		router := NewRouter(Config{
			Self: "near", Local: &guests{}, HostOf: func(context.Context, string, string) (string, error) { return "far", nil },
			Dial: func(context.Context, string) (net.Conn, error) {
				near, far := net.Pipe()
				conns <- far
				return near, nil
			},
		})
		defer router.Close()
		if err := router.Freeze(t.Context(), "default", "vm", 0); err != nil {
			t.Errorf("freeze: %v", err)
		}
		if err := router.Unfreeze(t.Context(), "default", "vm"); err != nil {
			t.Errorf("unfreeze: %v", err)
		}
		if err := router.Pause(t.Context(), "default", "vm"); !errors.Is(err, fault.Unreachable) {
			t.Errorf("a host that takes too long to pause: %v", err)
		}
	})
}
