package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// History is what happened in a mesh, in order. Its methods may be called at once.
type History struct {
	mu      sync.Mutex
	events  []Event
	writes  []Write
	changes map[change]string // values of claims, as some replica had them
	double  map[string]bool   // guests that were seen on two hosts
	faults  []string
}

// Event is something that happened on a host.
type Event struct {
	At   time.Time
	Host string
	What string
}

// String returns the event as a line.
func (e Event) String() string {
	return fmt.Sprintf("%s %s: %s", e.At.Format("15:04:05.000"), e.Host, e.What)
}

// Write is one transaction that took an entry of the log, or may have.
type Write struct {
	At time.Time
	// Host is where it was proposed, Writer the part of the agent, and Kinds what it
	// writes, each kind once.
	Host, Writer, Kinds string
	// Revision is that of the store after it. Err is why it was refused; nil if it was
	// applied.
	Revision uint64
	Err      error
}

// String returns the write as a line.
func (w Write) String() string {
	line := fmt.Sprintf("%s %s %s: %s", w.At.Format("15:04:05.000"), w.Host, w.Writer, w.Kinds)
	if w.Err != nil {
		line += ": " + w.Err.Error()
	}
	return line
}

// change is a change of one key.
type change struct {
	revision uint64
	key      string
}

// deleted is the value of a key that is deleted.
const deleted = ""

func newHistory() *History {
	return &History{changes: map[change]string{}, double: map[string]bool{}}
}

// Events returns what happened so far.
func (h *History) Events() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// Writes returns the transactions so far.
func (h *History) Writes() []Write {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.writes)
}

// String returns the events, a line each.
func (h *History) String() string {
	var b strings.Builder
	for _, event := range h.Events() {
		fmt.Fprintln(&b, event)
	}
	return b.String()
}

func (h *History) note(host, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, Event{time.Now(), host, fmt.Sprintf(format, args...)})
}

// fail notes that something happened that never may.
func (h *History) fail(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	h.faults = append(h.faults, text)
	h.events = append(h.events, Event{time.Now(), "mesh", "FAULT " + text})
}

// noteEnd notes that an agent has ended although nobody killed it. Only one of a host
// that was removed may do so.
func (h *History) noteEnd(host string, err error) {
	if errors.Is(err, fault.Expelled) {
		h.note(host, "the agent ends: %v", err)
		return
	}
	h.fail("the agent of %s ends: %v", host, err)
}

// noteGuests notes guests that run on two hosts at once.
func (h *History) noteGuests(hosts []*Host) {
	runs := map[string]string{}
	for _, host := range hosts {
		for _, guest := range host.Guests() {
			name := guest.Owner.Ref.String()
			other, elsewhere := runs[name]
			runs[name] = host.Name
			if !elsewhere {
				continue
			}
			h.mu.Lock()
			known := h.double[name]
			h.double[name] = true
			h.mu.Unlock()
			if !known {
				h.fail("%s runs on %s and on %s", name, other, host.Name)
			}
		}
	}
}

// follow notes every change of a claim that the replica of a host applies, until ctx
// ends or the replica does.
func (h *History) follow(ctx context.Context, host string, store *raftstore.Store) {
	for ctx.Err() == nil {
		list, err := store.List(ctx, raftstore.ListRequest{Prefix: claims.Prefix, ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
		if err != nil {
			return
		}
		for _, rec := range list.Records {
			h.noteChange(host, rec.ModRevision, rec.Key, string(rec.Value))
		}
		watch, err := store.Watch(ctx, raftstore.WatchRequest{Prefix: claims.Prefix, Revision: list.Revision})
		if err != nil {
			continue
		}
		for event := range watch.Events() {
			value := deleted
			if event.Type == raftstore.Put {
				value = string(event.Record.Value)
			}
			h.noteChange(host, event.Revision, event.Record.Key, value)
		}
	}
}

func (h *History) noteChange(host string, revision uint64, key, value string) {
	h.mu.Lock()
	before, known := h.changes[change{revision, key}]
	h.changes[change{revision, key}] = value
	h.mu.Unlock()
	if known && before != value {
		h.fail("replicas differ: %s at revision %d is %q on %s, and %q elsewhere", key, revision, value, host, before)
	}
}

// written is the store as one part of an agent writes it. Before each write and after it is
// a step of the agent, and the write is noted.
type written struct {
	objects.Store
	agent  *agent
	writer string
}

var _ objects.Store = written{}

// Commit implements objects.Store.
func (w written) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if err := w.agent.step(); err != nil {
		return raftstore.TxnResult{}, err
	}
	result, err := w.Store.Commit(ctx, t)
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) && conflict.Want != 0 {
		return result, err // on an old revision: refused without an entry
	}
	w.agent.host.mesh.History.noteWrite(Write{time.Now(), w.agent.host.Name, objects.WriterOf(ctx, w.writer), writtenKinds(t), result.Revision, err})
	if killed := w.agent.step(); killed != nil {
		return raftstore.TxnResult{}, killed // nobody is there to learn of it
	}
	return result, err
}

func (h *History) noteWrite(w Write) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes = append(h.writes, w)
}

// writtenKinds returns what a transaction writes, each kind once.
func writtenKinds(t raftstore.Txn) string {
	var list []string
	for _, op := range t.Ops {
		path := strings.Split(strings.Trim(op.Key, "/"), "/")
		kind := path[0] // claims
		if kind == "registry" {
			kind = path[2] // below the group
		}
		if !slices.Contains(list, kind) {
			list = append(list, kind)
		}
	}
	return strings.Join(list, " ")
}
