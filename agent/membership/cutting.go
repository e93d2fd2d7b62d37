package membership

import (
	"context"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// cutInterval is how often open connections are judged without a change of the records: for
// certificates that end, and connections that were made while a change came.
const cutInterval = 30 * time.Second

// cutPrefixes are the keys whose records say whose connections must end.
func cutPrefixes() []string {
	return []string{identity.ClientsPrefix, identity.UsersPrefix, identity.KeyListedOnly, identity.DepartedPrefix, identity.HostsPrefix, identity.KeyCA}
}

// CutOffEnded closes the open connections of people whose certificates have ended or were
// revoked, of users who were removed or have other groups, and of hosts that were removed or have another key, as soon as this host's copy of the state says so,
// until ctx ends or the store stops.
func (m *Member) CutOffEnded(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	for _, prefix := range cutPrefixes() {
		go func() {
			defer func() { done <- struct{}{} }()
			notifyOfChanges(ctx, m.store, prefix, changed)
		}()
	}
	defer func() {
		cancel()
		for range cutPrefixes() {
			<-done
		}
	}()
	tick := time.NewTicker(cutInterval)
	defer tick.Stop()
	for {
		m.port.CutOff(m.admission.Ended)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// notifyOfChanges sends to changed, unless a notice waits there already, when records below a
// prefix may have changed, until ctx ends or the store stops.
func notifyOfChanges(ctx context.Context, store *raftstore.Store, prefix string, changed chan<- struct{}) {
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for ctx.Err() == nil {
		watch, err := store.Watch(ctx, raftstore.WatchRequest{Prefix: prefix})
		if err != nil {
			return // the store has stopped, and the agent stops with it
		}
		notify()
		for range watch.Events() {
			notify()
		}
	}
}
