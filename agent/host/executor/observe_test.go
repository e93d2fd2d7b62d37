package executor

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// deafDaemon is a hypervisor whose events a test sends, and whose lists fail as
// often as told.
type deafDaemon struct {
	hypervisor.Hypervisor
	events   chan hypervisor.Event
	failures atomic.Int64
}

func (d *deafDaemon) Subscribe(context.Context) <-chan hypervisor.Event { return d.events }

func (d *deafDaemon) List(ctx context.Context) ([]hypervisor.Domain, error) {
	if d.failures.Add(-1) >= 0 {
		return nil, hypervisor.ErrUnavailable
	}
	return d.Hypervisor.List(ctx)
}

// observed runs Observe on events that the test sends, until the test ends.
func (w *world) observed() (daemon *deafDaemon, keys chan stewards.Key) {
	w.t.Helper()
	daemon = &deafDaemon{Hypervisor: w.hv, events: make(chan hypervisor.Event)}
	w.config.Hypervisor = daemon
	w.restart()
	keys = make(chan stewards.Key, 64)
	w.t.Cleanup(w.executor.Subscribe(func(key stewards.Key) { keys <- key }))
	for len(keys) > 0 {
		<-keys // what there is already
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.executor.Observe(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		close(daemon.events)
		if err := <-done; err != nil {
			w.t.Errorf("observe: %v", err)
		}
	})
	return daemon, keys
}

// After events were lost everything is looked at, also when the daemon is not ready
// to list it at once.
func TestLostEventsAreMadeUpForSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		vmi := w.running("a")
		daemon, keys := w.observed()
		daemon.failures.Store(3)
		began := time.Now()
		daemon.events <- hypervisor.Event{Kind: hypervisor.EventResync}
		if key := <-keys; key != objects.KeyOf(vmi) {
			t.Errorf("named %s", key)
		}
		if took := time.Since(began); took > 10*time.Second || took < minListPause {
			t.Errorf("made up for after %v", took)
		}
		// Once, and not again and again.
		time.Sleep(time.Hour)
		if len(keys) != 0 {
			t.Errorf("%d more keys were named", len(keys))
		}
	})
}

// A domain that went while events were lost is on no list.
func TestLostEventsOfADomainThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		vmi := w.running("a")
		daemon, keys := w.observed()
		w.act(w.hv.Destroy(t.Context(), refOf(vmi)))
		w.act(w.hv.Undefine(t.Context(), refOf(vmi), hypervisor.UndefineOptions{}))
		daemon.events <- hypervisor.Event{Kind: hypervisor.EventResync}
		if key := <-keys; key != objects.KeyOf(vmi) {
			t.Errorf("named %s", key)
		}
	})
}

func TestADaemonThatEndsTheEventsIsAnError(t *testing.T) {
	w := newWorld(t)
	daemon := &deafDaemon{Hypervisor: w.hv, events: make(chan hypervisor.Event)}
	w.config.Hypervisor = daemon
	w.restart()
	close(daemon.events)
	if err := w.executor.Observe(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAnIOErrorNamesItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.config.Events.Run(ctx) }()
		defer func() { cancel(); <-done }()
		vmi := w.running("a")
		daemon, keys := w.observed()
		stale := refOf(vmi)
		stale.UID = "another"
		for _, event := range []hypervisor.Event{
			{Ref: refOf(vmi), Device: "root", Detail: "enospc"}, {Ref: refOf(vmi), Device: "data"}, {Ref: stale, Device: "old"},
			{Ref: refOf(vmi), Device: "full", Detail: "nospace"}, {Ref: refOf(vmi), Device: "wire", Detail: "cable"},
		} {
			event.Kind = hypervisor.EventIOError
			daemon.events <- event
			<-keys
		}
		time.Sleep(time.Minute)
		events, _, err := objects.List[*corev1.Event](t.Context(), w.store, "ns", raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, event := range events {
			if event.Reason == "IOerror" && event.Type == corev1.EventTypeWarning {
				told = append(told, event.Message)
			}
		}
		all := strings.Join(told, "; ")
		for _, want := range []string{"volume root: no space", "volume data: the host could not", "volume full: no space", "volume wire: cable"} {
			if len(told) != 4 || !strings.Contains(all, want) {
				t.Errorf("told %q, want %q", all, want)
			}
		}
	})
}
