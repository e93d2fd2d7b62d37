package membership

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// records are the mesh's records of its hosts, as the local copy of the store had them
// when they were last read. They say who is a host of the mesh: whoever holds the
// gossip key can gossip, a machine that was removed too. Methods may be called
// concurrently, before the store is open too.
type records struct {
	self string
	log  *slog.Logger
	// onRead is called after each reading of the records, before the listeners are. It is
	// set before the first reading.
	onRead func()

	mu        sync.Mutex
	hosts     *identity.Hosts // nil before the store is open
	byName    map[string]identity.HostRecord
	listeners map[int]func()
	nextID    int
}

// open reads the records for the first time.
func (r *records) open(hosts *identity.Hosts) {
	r.mu.Lock()
	r.hosts = hosts
	r.mu.Unlock()
	r.read()
}

// read reads the records again, and calls the listeners if a host came or went or has other
// addresses.
func (r *records) read() {
	r.mu.Lock()
	hosts := r.hosts
	r.mu.Unlock()
	if hosts == nil {
		return
	}
	list, err := hosts.List(context.Background(), raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		r.log.Warn("the records of the mesh's hosts cannot be read", "err", err)
		return
	}
	next := make(map[string]identity.HostRecord, len(list))
	for _, record := range list {
		next[record.Name] = record
	}
	r.mu.Lock()
	changed := !maps.EqualFunc(r.byName, next, sameAddresses)
	r.byName = next
	var listeners []func()
	if changed {
		listeners = slices.Collect(maps.Values(r.listeners))
	}
	r.mu.Unlock()
	if r.onRead != nil {
		r.onRead()
	}
	for _, fn := range listeners {
		fn()
	}
}

func sameAddresses(a, b identity.HostRecord) bool {
	return a.MeshAddress == b.MeshAddress && a.GossipAddress == b.GossipAddress && slices.Equal(a.Addresses, b.Addresses)
}

// list returns the records, sorted by name. ok is false if they do not even have this
// host: then there is no copy of the store yet, or this host is being removed, and they
// say nothing about the others.
func (r *records) list() (list []identity.HostRecord, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.byName)) {
		list = append(list, r.byName[name])
	}
	_, ok = r.byName[r.self]
	return list, ok
}

// has reports whether a name is that of a host of the mesh, as far as this host knows.
func (r *records) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.byName[r.self]; !ok || name == r.self {
		return true
	}
	_, ok := r.byName[name]
	return ok
}

// onChange calls fn after a host came or went or has other addresses, until cancel is called.
func (r *records) onChange(fn func()) (cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listeners == nil {
		r.listeners = map[int]func(){}
	}
	id := r.nextID
	r.nextID++
	r.listeners[id] = fn
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.listeners, id)
	}
}
