package executor

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/port/guests"
)

// All guests of a host have a bounded number of forwarded connections together, and those of a
// guest that ended do not count.
func TestAHostForwardsABoundedNumberOfConnections(t *testing.T) {
	w := newWorld(t)
	w.running("a")
	port := listen(t, w)
	ask := func() error {
		conn, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Forward, Protocol: guests.TCP, Port: port})
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	for i := range maxHostForwards {
		if !w.executor.forwards.add(fmt.Sprint("uid-", i/maxForwards), &forwardedConn{}) {
			t.Fatalf("connection %d was refused", i)
		}
	}
	if err := ask(); !errors.Is(err, fault.TooMany) {
		t.Errorf("one connection too many: %v", err)
	}
	for i := range maxHostForwards / maxForwards {
		w.executor.forwards.endGuest(fmt.Sprint("uid-", i))
	}
	if err := ask(); err != nil || w.executor.forwards.all != 0 {
		t.Errorf("after the other guests ended: %v, and %d connections count", err, w.executor.forwards.all)
	}
}

// slowDisplay takes no picture until it is released.
type slowDisplay struct {
	hypervisor.Hypervisor
	begun, release chan struct{}
}

func (d *slowDisplay) Screenshot(ctx context.Context, ref hypervisor.Ref, wake bool) ([]byte, error) {
	d.begun <- struct{}{}
	<-d.release
	return d.Hypervisor.Screenshot(ctx, ref, wake)
}

// Who asks for pictures again and again, of a display that gives none, is told to wait.
func TestAHostTakesABoundedNumberOfPictures(t *testing.T) {
	w := newWorld(t)
	display := &slowDisplay{Hypervisor: w.hv, begun: make(chan struct{}), release: make(chan struct{})}
	w.config.Hypervisor = display
	w.restart()
	const names = maxHostPictures/maxPictures + 1
	for i := range names {
		w.running(fmt.Sprint("g", i))
	}
	ask := func(i int) error {
		_, err := w.executor.Guests().Screenshot(t.Context(), "ns", fmt.Sprint("g", i), false)
		return err
	}
	taken := make(chan error, maxHostPictures)
	take := func(i int) {
		go func() { taken <- ask(i) }()
		<-display.begun
	}
	take(0)
	take(0)
	if err := ask(0); !errors.Is(err, fault.TooMany) {
		t.Errorf("a third picture of a guest: %v", err)
	}
	for i := 2; i < maxHostPictures; i++ {
		take(i / maxPictures)
	}
	if err := ask(names - 1); !errors.Is(err, fault.TooMany) {
		t.Errorf("a picture of a guest of a busy host: %v", err)
	}
	close(display.release)
	for range maxHostPictures {
		w.act(<-taken)
	}
	go func() { taken <- ask(0) }()
	<-display.begun
	w.act(<-taken)
}
