package objects

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/plain"
	"virtmesh/raftstore"
)

// RecorderConfig describes a Recorder.
type RecorderConfig struct {
	// Store receives the events. Required.
	Store Store
	// Component is the source that the events name, e.g. "virtualmachine-controller".
	Component string
	// Host is the host that the events name as their source.
	Host string
	// Clock is where the times of the events come from.
	Clock Clock
	// Flush is how long events are collected before they are written together.
	Flush time.Duration
	// Burst and Refill bound the events about one object: Burst at once, and then one
	// per Refill. Further events are dropped.
	Burst  int
	Refill time.Duration
	// HostBurst and HostRefill bound all events of the recorder in the same way.
	HostBurst  int
	HostRefill time.Duration
	// Remember is how many events, and how many objects, the recorder keeps in memory.
	Remember int
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. May be nil.
	Registerer prometheus.Registerer
}

// DefaultRecorderConfig returns the default settings, without the required fields.
func DefaultRecorderConfig() RecorderConfig {
	return RecorderConfig{
		Flush: time.Second, Burst: 25, Refill: 5 * time.Minute, HostBurst: 500, HostRefill: time.Second, Remember: 4096,
	}
}

// Validate reports what is missing or contradicts itself.
func (c RecorderConfig) Validate() error {
	switch {
	case c.Store == nil || c.Logger == nil:
		return errors.New("objects: RecorderConfig needs a Store and a Logger")
	case c.Component == "" || c.Host == "":
		return errors.New("objects: RecorderConfig needs Component and Host")
	case c.Flush <= 0 || c.Refill <= 0 || c.HostRefill <= 0 || c.Burst < 1 || c.HostBurst < 1 || c.Remember < 1:
		return errors.New("objects: RecorderConfig wants positive Flush, Refill, Burst, HostRefill, HostBurst and Remember")
	}
	return nil
}

// Recorder writes events, which tell users what happened to an object. If the same
// thing happens again, it increments the count of the existing event instead of adding
// a new one. Texts that keep changing while object and reason are the same are counted
// in one event.
//
// Events are best effort. They are written without conditions: an event's name contains
// the host and the component, so each event has only one writer.
type Recorder struct {
	cfg RecorderConfig

	mu      sync.Mutex
	known   *lru.LRU[string, *corev1.Event] // by store key
	limits  *limits
	pending map[string]*corev1.Event // by store key
	order   []string
	wake    chan struct{} // holds one token
}

// NewRecorder returns a recorder. AddTo works at once; Event needs Run to be running.
func NewRecorder(cfg RecorderConfig) (*Recorder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	known, err := lru.NewLRU[string, *corev1.Event](cfg.Remember, nil)
	if err != nil {
		return nil, err
	}
	limits, err := newLimits(cfg)
	if err != nil {
		return nil, fmt.Errorf("objects: bound events: %w", err)
	}
	return &Recorder{
		cfg: cfg, known: known, limits: limits,
		pending: map[string]*corev1.Event{}, wake: make(chan struct{}, 1),
	}, nil
}

// AddTo adds an event about o to the transaction, so that the event needs no commit of
// its own. eventType is corev1.EventTypeNormal or corev1.EventTypeWarning.
func (r *Recorder) AddTo(tx *Tx, o Object, eventType, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ev := r.nextEvent(o, eventType, reason, message)
	if ev == nil {
		return
	}
	b, err := Encode(ev)
	if err != nil {
		return
	}
	// Remember the event only if the transaction is committed.
	tx.addOp(raftstore.Op{Key: key, Value: b}, eventForm(ev), func(uint64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.known.Add(key, ev)
	})
}

// Event queues an event about o, which Run soon writes together with others. It never
// blocks and may be called from any goroutine.
func (r *Recorder) Event(o Object, eventType, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ev := r.nextEvent(o, eventType, reason, message)
	if ev == nil {
		return
	}
	if _, waiting := r.pending[key]; !waiting {
		if len(r.order) >= r.cfg.Remember {
			r.limits.countDropped(droppedByStore, 1) // the mesh has taken no writes for long
			return
		}
		r.order = append(r.order, key)
	}
	r.known.Add(key, ev)
	r.pending[key] = ev
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes the queued events until ctx ends, and then writes the remaining ones once.
func (r *Recorder) Run(ctx context.Context) {
	ctx = WithWriter(ctx, "events")
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			r.writePending(last)
			return
		case <-r.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(r.cfg.Flush):
		}
		if ctx.Err() == nil {
			r.writePending(ctx)
		}
	}
}

// maxBatch bounds the events of one transaction, so that it stays small compared to
// other transactions.
const maxBatch = 64

func (r *Recorder) writePending(ctx context.Context) {
	for {
		r.mu.Lock()
		n := min(len(r.order), maxBatch)
		var tx Tx
		for _, key := range r.order[:n] {
			ev := r.pending[key]
			if b, err := Encode(ev); err == nil {
				tx.addOp(raftstore.Op{Key: key, Value: b}, eventForm(ev))
			}
			delete(r.pending, key)
		}
		r.order = r.order[n:]
		r.mu.Unlock()
		if n == 0 {
			return
		}
		if _, err := tx.Commit(ctx, r.cfg.Store); err != nil {
			r.limits.countDropped(droppedByStore, n)
			r.cfg.Logger.Warn("dropping events that cannot be written", "events", n, "err", err)
		}
	}
}

// nextEvent returns the event to write now and its store key; nil if the object's
// budget is used up. The caller holds r.mu.
func (r *Recorder) nextEvent(o Object, eventType, reason, message string) (string, *corev1.Event) {
	kind, err := KindOf(o)
	if err != nil || !r.limits.takeEvent(string(o.GetUID())) {
		return "", nil
	}
	ns := o.GetNamespace()
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	message = plain.Message(message) // others may have chosen some of the words
	at := r.cfg.Clock.Now()
	now := metav1.NewTime(at.Truncate(time.Second))
	tell, message := r.limits.combine(r.nameHash(o, eventType, reason), message, at)
	name := o.GetName() + "." + r.nameHash(o, eventType, reason, tell)
	key := KindFor[*corev1.Event]().StoreKey(Key{Namespace: ns, Name: name})
	ev := r.lastWritten(key)
	if ev == nil {
		tx := Tx{Clock: r.cfg.Clock} // only to complete the object
		ev = &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			InvolvedObject: corev1.ObjectReference{
				Kind: kind.GVK.Kind, APIVersion: kind.GVK.GroupVersion().String(),
				Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
			},
			Reason: reason, Message: message, Type: eventType, FirstTimestamp: now,
			Source:              corev1.EventSource{Component: r.cfg.Component, Host: r.cfg.Host},
			ReportingController: r.cfg.Component, ReportingInstance: r.cfg.Host,
		}
		tx.Create(ev)
	}
	ev = ev.DeepCopy()
	ev.Count++
	ev.Message, ev.LastTimestamp = message, now
	if now.Before(&ev.FirstTimestamp) {
		ev.FirstTimestamp = now // the clock was set back
	}
	return key, ev
}

// eventForm returns the form of an event that is written. A new one replaces nothing.
func eventForm(ev *corev1.Event) form {
	if ev.Count <= 1 {
		return form{}
	}
	return formOf(KindFor[*corev1.Event](), nil)
}

// lastWritten returns the event of a key as it was last written; after a restart it
// reads the store.
func (r *Recorder) lastWritten(key string) *corev1.Event {
	if ev, ok := r.known.Get(key); ok {
		return ev
	}
	rec, _, err := r.cfg.Store.Get(context.Background(), key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil
	}
	ev, err := Decode[*corev1.Event](rec)
	if err != nil {
		return nil
	}
	return ev
}

func (r *Recorder) nameHash(o Object, parts ...string) string {
	h := fnv.New64a()
	for _, p := range append([]string{r.cfg.Component, r.cfg.Host, string(o.GetUID())}, parts...) {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return strconv.FormatUint(h.Sum64(), 16)
}
