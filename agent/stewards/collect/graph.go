package collect

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/multimap"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// eventsPrefix is the prefix of the store keys of events, which have no owners.
var eventsPrefix = objects.KindFor[*corev1.Event]().Prefix()

// item is what the graph keeps of an object. It is replaced, never changed.
type item struct {
	storeKey   string
	kind       unique.Handle[schema.GroupKind]
	namespace  string
	name       string
	uid        types.UID
	revision   uint64
	owners     []metav1.OwnerReference
	finalizers []string
	deleting   bool
}

func (i *item) has(finalizer string) bool { return slices.Contains(i.finalizers, finalizer) }

// waitsForDependents reports whether the object is under foreground deletion.
func (i *item) waitsForDependents() bool {
	return i.deleting && i.has(metav1.FinalizerDeleteDependents)
}

// blocks reports whether the object holds back the deletion of an owner.
func (i *item) blocks(owner types.UID) bool {
	for _, ref := range i.owners {
		if ref.UID == owner {
			return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
		}
	}
	return false
}

// graph holds all objects and their owner references. It is the sink of one
// watch and a source of keys: the name of a key is the store key of an object.
type graph struct {
	log *slog.Logger

	mu         sync.RWMutex
	items      map[string]*item // by store key
	byUID      map[types.UID]*item
	dependents multimap.Map[types.UID, string] // store keys by uid of an owner
	kinds      map[schema.GroupKind]struct{}   // all that were ever seen
	unreadable map[string]struct{}             // store keys
	subs       map[int]func(stewards.Key, uint64)
	nextID     int
	synced     chan struct{}
	isSynced   bool
}

var (
	_ objects.Sink            = (*graph)(nil)
	_ stewards.RevisionSource = (*graph)(nil)
)

func newGraph(log *slog.Logger) *graph {
	return &graph{
		log: log, items: map[string]*item{}, byUID: map[types.UID]*item{},
		kinds: map[schema.GroupKind]struct{}{}, unreadable: map[string]struct{}{},
		subs: map[int]func(stewards.Key, uint64){}, synced: make(chan struct{}),
	}
}

// Subscribe implements stewards.Source.
func (g *graph) Subscribe(fn func(stewards.Key)) (cancel func()) {
	return g.SubscribeRevisions(func(key stewards.Key, _ uint64) { fn(key) })
}

// SubscribeRevisions implements stewards.RevisionSource.
func (g *graph) SubscribeRevisions(fn func(stewards.Key, uint64)) (cancel func()) {
	g.mu.Lock()
	id := g.nextID
	g.nextID++
	g.subs[id] = fn
	g.mu.Unlock()
	for _, key := range g.Keys() {
		fn(key, 0)
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.subs, id)
	}
}

// Keys implements stewards.Source. It names only the objects that may need
// work: those with owners, and those whose deletion this package completes.
func (g *graph) Keys() []stewards.Key {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var keys []stewards.Key
	for storeKey, i := range g.items {
		if i.concerns() {
			keys = append(keys, stewards.Key{Name: storeKey})
		}
	}
	return keys
}

func (i *item) concerns() bool {
	return len(i.owners) > 0 || i.deleting && (i.has(metav1.FinalizerDeleteDependents) || i.has(metav1.FinalizerOrphanDependents))
}

// WaitForSync implements stewards.Source.
func (g *graph) WaitForSync(ctx context.Context) error {
	select {
	case <-g.synced:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reset implements objects.Sink.
func (g *graph) Reset(recs []raftstore.Record, _ uint64) {
	g.mu.Lock()
	clear(g.unreadable)
	g.items, g.byUID, g.dependents = map[string]*item{}, map[types.UID]*item{}, multimap.Map[types.UID, string]{}
	for _, rec := range recs {
		g.putRecord(rec)
	}
	if !g.isSynced {
		g.isSynced = true
		close(g.synced)
	}
	g.mu.Unlock()
	g.notifySubscribers(g.Keys(), 0)
}

// Apply implements objects.Sink.
func (g *graph) Apply(ev raftstore.Event) {
	g.mu.Lock()
	affected := map[string]struct{}{}
	note := func(i *item) {
		if i == nil {
			return
		}
		affected[i.storeKey] = struct{}{}
		for key := range g.dependents.Values(i.uid) {
			affected[key] = struct{}{}
		}
		for _, ref := range i.owners {
			if owner := g.byUID[ref.UID]; owner != nil && owner.deleting {
				affected[owner.storeKey] = struct{}{}
			}
		}
	}
	old := g.items[ev.Record.Key]
	note(old)
	if ev.Type == raftstore.Put {
		now := g.putRecord(ev.Record)
		// A change that leaves the ownership as it was needs no work.
		if old != nil && now != nil && sameOwnership(old, now) {
			clear(affected)
		} else {
			note(now)
		}
	} else {
		delete(g.unreadable, ev.Record.Key)
		g.dropItem(old)
	}
	keys := make([]stewards.Key, 0, len(affected))
	for key := range affected {
		keys = append(keys, stewards.Key{Name: key})
	}
	g.mu.Unlock()
	g.notifySubscribers(keys, ev.Revision)
}

func sameOwnership(a, b *item) bool {
	return a.uid == b.uid && a.deleting == b.deleting && slices.Equal(a.finalizers, b.finalizers) &&
		slices.EqualFunc(a.owners, b.owners, func(x, y metav1.OwnerReference) bool { return x.UID == y.UID })
}

// notifySubscribers calls every subscriber with each of the keys.
func (g *graph) notifySubscribers(keys []stewards.Key, revision uint64) {
	g.mu.RLock()
	subs := make([]func(stewards.Key, uint64), 0, len(g.subs))
	for _, fn := range g.subs {
		subs = append(subs, fn)
	}
	g.mu.RUnlock()
	for _, fn := range subs {
		for _, key := range keys {
			fn(key, revision)
		}
	}
}

// putRecord stores an object. The caller holds g.mu.
func (g *graph) putRecord(rec raftstore.Record) *item {
	if strings.HasPrefix(rec.Key, eventsPrefix) {
		return nil
	}
	i, err := parse(rec.Expand())
	if err != nil {
		g.log.Error("no object is collected while this one cannot be decoded, because it may be an owner", "key", rec.Key, "err", err)
		g.unreadable[rec.Key] = struct{}{}
		return nil
	}
	delete(g.unreadable, rec.Key)
	g.dropItem(g.items[rec.Key])
	g.items[rec.Key], g.byUID[i.uid] = i, i
	g.kinds[i.kind.Value()] = struct{}{}
	for _, ref := range i.owners {
		g.dependents.Add(ref.UID, rec.Key)
	}
	return i
}

// dropItem forgets an object. The caller holds g.mu.
func (g *graph) dropItem(i *item) {
	if i == nil {
		return
	}
	delete(g.items, i.storeKey)
	if g.byUID[i.uid] == i {
		delete(g.byUID, i.uid)
	}
	for _, ref := range i.owners {
		g.dependents.Remove(ref.UID, i.storeKey)
	}
}

// parse reads the metadata of a record.
func parse(rec raftstore.Record) (*item, error) {
	var o metav1.PartialObjectMetadata
	if err := objects.DecodeShape(rec, &o); err != nil {
		return nil, err
	}
	if o.UID == "" {
		return nil, fmt.Errorf("object without uid")
	}
	for n := range o.OwnerReferences {
		ref := &o.OwnerReferences[n]
		ref.APIVersion, ref.Kind, ref.Name = shared(ref.APIVersion), shared(ref.Kind), within(rec.Key, ref.Name)
	}
	for n, finalizer := range o.Finalizers {
		o.Finalizers[n] = shared(finalizer)
	}
	return &item{
		storeKey: rec.Key, kind: unique.Make(o.GroupVersionKind().GroupKind()),
		namespace: within(rec.Key, o.Namespace), name: within(rec.Key, o.Name), uid: o.UID, revision: rec.ModRevision, owners: o.OwnerReferences, finalizers: o.Finalizers,
		deleting: o.DeletionTimestamp != nil,
	}, nil
}

// shared returns a word that many objects have in the memory that they share.
func shared(word string) string { return unique.Make(word).Value() }

// within returns a word as a part of the store key, if it is one, so that it takes no
// memory of its own.
func within(storeKey, word string) string {
	if i := strings.LastIndex(storeKey, word); i >= 0 {
		return storeKey[i : i+len(word)]
	}
	return word
}

// itemAt returns an object and its dependents: the objects that name it as an
// owner.
func (g *graph) itemAt(storeKey string) (i *item, dependents []*item, ok bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	i, ok = g.items[storeKey]
	if !ok {
		return nil, nil, false
	}
	for key := range g.dependents.Values(i.uid) {
		dependents = append(dependents, g.items[key])
	}
	slices.SortFunc(dependents, func(a, b *item) int { return strings.Compare(a.storeKey, b.storeKey) })
	return i, dependents, true
}

// ownership groups the owner references of an object by the state of the owner.
type ownership struct {
	// solid owners exist and stay, waiting ones are under foreground deletion,
	// and dangling ones are gone.
	solid, waiting, dangling []metav1.OwnerReference
}

func (g *graph) classify(i *item) (o ownership) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, ref := range i.owners {
		owner := g.byUID[ref.UID]
		switch {
		case owner == nil && (!g.knowsKind(ref) || len(g.unreadable) > 0):
			o.solid = append(o.solid, ref)
		case owner == nil || owner.namespace != "" && owner.namespace != i.namespace:
			o.dangling = append(o.dangling, ref)
		case owner.waitsForDependents() && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion:
			o.waiting = append(o.waiting, ref)
		default:
			o.solid = append(o.solid, ref)
		}
	}
	return o
}

// knowsKind reports whether the kind of ref is known here, so that a missing
// owner of this kind has been deleted. The caller holds g.mu.
func (g *graph) knowsKind(ref metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return false
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	if _, seen := g.kinds[kind]; seen {
		return true
	}
	_, ok := objects.KindByGroupKind(kind)
	return ok
}
