package quota

import (
	"context"
	"maps"
	"slices"
	"sync"

	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// records is the source of the namespaces that have a usage.Record.
type records struct {
	mu     sync.Mutex
	names  map[string]bool
	told   map[int]func(stewards.Key, uint64)
	next   int
	filled chan struct{}
	once   sync.Once
}

var (
	_ stewards.RevisionSource = (*records)(nil)
	_ objects.Sink            = (*records)(nil)
)

func newRecords(cache *objects.Cache) *records {
	r := &records{names: map[string]bool{}, told: map[int]func(stewards.Key, uint64){}, filled: make(chan struct{})}
	cache.Records(usage.Prefix, r)
	return r
}

// Reset implements objects.Sink.
func (r *records) Reset(recs []raftstore.Record, revision uint64) {
	r.mu.Lock()
	before := r.names
	r.names = map[string]bool{}
	for _, rec := range recs {
		r.names[usage.NamespaceOf(rec.Key)] = true
	}
	both := maps.Clone(r.names)
	maps.Copy(both, before)
	r.mu.Unlock()
	r.once.Do(func() { close(r.filled) })
	for name := range both {
		r.tell(name, 0)
	}
}

// Apply implements objects.Sink.
func (r *records) Apply(ev raftstore.Event) {
	name := usage.NamespaceOf(ev.Record.Key)
	r.mu.Lock()
	if ev.Type == raftstore.Delete {
		delete(r.names, name)
	} else {
		r.names[name] = true
	}
	r.mu.Unlock()
	r.tell(name, ev.Revision)
}

func (r *records) tell(name string, revision uint64) {
	r.mu.Lock()
	told := slices.Collect(maps.Values(r.told))
	r.mu.Unlock()
	for _, fn := range told {
		fn(stewards.Key{Name: name}, revision)
	}
}

// Subscribe implements stewards.Source.
func (r *records) Subscribe(fn func(stewards.Key)) (cancel func()) {
	return r.SubscribeRevisions(func(key stewards.Key, _ uint64) { fn(key) })
}

// SubscribeRevisions implements stewards.RevisionSource.
func (r *records) SubscribeRevisions(fn func(key stewards.Key, revision uint64)) (cancel func()) {
	r.mu.Lock()
	id := r.next
	r.next++
	r.told[id] = fn
	r.mu.Unlock()
	for _, key := range r.Keys() {
		fn(key, 0)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.told, id)
	}
}

// Keys implements stewards.Source.
func (r *records) Keys() []stewards.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]stewards.Key, 0, len(r.names))
	for name := range r.names {
		keys = append(keys, stewards.Key{Name: name})
	}
	return keys
}

// WaitForSync implements stewards.Source.
func (r *records) WaitForSync(ctx context.Context) error {
	select {
	case <-r.filled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
