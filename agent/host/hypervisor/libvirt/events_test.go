package libvirt

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/broadcast"
)

// eventDriver is a driver without a daemon, which knows whose the domain u1 is.
func eventDriver() (*Driver, hypervisor.Owner) {
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "ns", Name: "vm", UID: "u1"}, Host: "h", Epoch: 1}
	d := &Driver{
		cfg: DefaultConfig(), log: slog.New(slog.DiscardHandler), hub: broadcast.New(), owners: newOwnerCache(),
		names: newNameCache(), raw: make(chan rawEvent, 2), calls: map[string]int{}, queries: newLane("queries", 1),
	}
	d.owners.put("u1", owner)
	return d, owner
}

// TestEventsFindTheirOwner: what happens to domains that are not ours is not told, and
// the last event of one that is ours still is.
func TestEventsFindTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, owner := eventDriver()
		events := d.hub.Subscribe(t.Context())
		d.names.names["u1"] = cachedNames{instance: "u1", names: deviceNames{"vda": "root"}}
		for _, raw := range []rawEvent{
			{uuid: "foreign", event: hypervisor.Event{Kind: hypervisor.EventReboot}},
			{uuid: "u1", event: hypervisor.Event{}},
			{uuid: "u1", event: hypervisor.Event{Kind: hypervisor.EventState, State: hypervisor.StateShutoff, Reason: hypervisor.ReasonShutdown}},
			{uuid: "u1", event: hypervisor.Event{Kind: hypervisor.EventUndefined}},
			{uuid: "u1", event: hypervisor.Event{Kind: hypervisor.EventReboot}}, // whose, nobody knows any more
		} {
			d.noteOwner(&raw)
			d.publishOne(t.Context(), raw)
		}
		for _, want := range []hypervisor.EventKind{hypervisor.EventState, hypervisor.EventUndefined} {
			synctest.Wait()
			select {
			case e := <-events:
				if e.Kind != want || e.Ref != owner.Ref {
					t.Errorf("got %+v, want %s of %s", e, want, owner.Ref)
				}
			default:
				t.Fatalf("no event of %s", want)
			}
		}
		synctest.Wait()
		select {
		case e := <-events:
			t.Errorf("told too much: %+v", e)
		default:
		}
		if len(d.names.names) != 0 {
			t.Error("the names of a guest that has ended are kept")
		}
		d.hub.Close()
	})
}

// TestRedefinedDomainIsLookedUpAgain: another owner may be written in it now, and when
// it cannot be read nobody is told a wrong one.
func TestRedefinedDomainIsLookedUpAgain(t *testing.T) {
	d, _ := eventDriver()
	raw := rawEvent{uuid: "u1", redefined: true}
	d.noteOwner(&raw)
	d.publishOne(t.Context(), raw)
	if owner, ok := d.owners.get("u1"); ok {
		t.Errorf("a redefined domain still has owner %+v", owner)
	}
}

// The domains of two instances of a machine have the same UUID. What happened to the
// first is told of the first, although the second is there when it is told.
func TestEventsOfAnEarlierInstanceKeepTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, first := eventDriver()
		events := d.hub.Subscribe(t.Context())
		second := first
		second.UID, second.Epoch = "u2", 2
		raws := []rawEvent{
			{uuid: "u1", event: hypervisor.Event{Kind: hypervisor.EventState, State: hypervisor.StateShutoff}},
			{uuid: "u1", event: hypervisor.Event{Kind: hypervisor.EventUndefined}},
			{uuid: "u1", event: hypervisor.Event{Kind: hypervisor.EventState, State: hypervisor.StateRunning}},
		}
		d.noteOwner(&raws[0])
		d.noteOwner(&raws[1])
		d.owners.put("u1", second)
		d.noteOwner(&raws[2])
		for i, want := range []hypervisor.Owner{first, first, second} {
			d.publishOne(t.Context(), raws[i])
			synctest.Wait()
			if e := <-events; e.Kind != raws[i].event.Kind || e.Ref != want.Ref {
				t.Errorf("event %d: got %+v, want one of %+v", i, e, want.Ref)
			}
		}
		d.hub.Close()
	})
}

// TestPublishEndsWithItsContext: a driver that closes leaves no goroutine.
func TestPublishEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := eventDriver()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { d.publish(ctx); close(ended) }()
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("it ended before its time")
		default:
		}
		cancel()
		<-ended
	})
}

func TestCallsWithoutAConnection(t *testing.T) {
	d, owner := eventDriver()
	if _, err := d.Get(t.Context(), owner.Ref); err == nil || err.Error() != "get ns/vm: hypervisor unavailable" {
		t.Errorf("get: %v", err)
	}
	if len(d.queries.slots) != 0 || len(d.calls) != 0 {
		t.Errorf("the failed call holds a turn: %d, %v", len(d.queries.slots), d.calls)
	}
}

func TestRecordLocksAreSteady(t *testing.T) {
	d, owner := eventDriver()
	if first, again := d.recordLock(owner.Ref), d.recordLock(owner.Ref); first != again {
		t.Error("one domain has two locks")
	}
	locks := map[any]bool{}
	for _, uid := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		locks[d.recordLock(hypervisor.Ref{UID: uid})] = true
	}
	if len(locks) < 3 {
		t.Errorf("ten domains share %d locks", len(locks))
	}
}
