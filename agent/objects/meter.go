package objects

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

// Raft is the part of a replicated store that this package uses. *raftstore.Store
// implements it; Meter.Raft returns one that also counts.
type Raft interface {
	// Revision returns the newest revision that the local replica has applied.
	Revision() uint64
	// Commit applies t atomically and returns once the local replica has applied it.
	Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error)
	// Get returns the record at key and the revision of the store.
	Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error)
	// List returns the records below a prefix.
	List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error)
	// Scan returns the records below a prefix, compact, as they are taken.
	Scan(ctx context.Context, prefix string, o raftstore.ReadOptions) (iter.Seq[raftstore.Record], uint64, error)
	// Watch delivers the changes below a prefix from the local replica.
	Watch(ctx context.Context, req raftstore.WatchRequest) (*raftstore.Watcher, error)
	// FeatureLevel returns the feature level of the mesh, as the local replica has it.
	FeatureLevel() uint32
}

type writerKey struct{}

// WithWriter returns a context whose commits count as the named writer's: a control
// loop or another part of the agent, never a name that a user chose.
func WithWriter(ctx context.Context, writer string) context.Context {
	return context.WithValue(ctx, writerKey{}, writer)
}

// WriterOf returns the writer that ctx names, or otherwise.
func WriterOf(ctx context.Context, otherwise string) string {
	if writer, ok := ctx.Value(writerKey{}).(string); ok {
		return writer
	}
	return otherwise
}

// Meter counts what is written to the replicated store, by writer and kind. All its
// methods may be called at once. A nil Meter counts nothing.
type Meter struct {
	writes, transactions *prometheus.CounterVec
}

// NewMeter returns a meter with its metrics registered.
func NewMeter(registerer prometheus.Registerer) (*Meter, error) {
	m := &Meter{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_writes_total", Help: "Records written by committed transactions of this host, by writer and kind.",
		}, []string{"writer", "kind"}),
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_transactions_total", Help: "Transactions requested on this host, by writer and result.",
		}, []string{"writer", "result"}),
	}
	for _, c := range []prometheus.Collector{m.writes, m.transactions} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Raft returns store with its transactions counted as those of the writer that the
// context of a commit names, or of writer if it names none.
func (m *Meter) Raft(store Raft, writer string) Raft {
	if m == nil {
		return store
	}
	return metered{store, m, writer}
}

type metered struct {
	Raft
	meter  *Meter
	writer string
}

// Commit implements Raft.
func (m metered) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	res, err := m.Raft.Commit(ctx, t)
	m.meter.count(WriterOf(ctx, m.writer), t, err)
	return res, err
}

func (m *Meter) count(writer string, t raftstore.Txn, err error) {
	m.transactions.WithLabelValues(writer, resultOf(err)).Inc()
	if err != nil {
		return
	}
	for _, op := range t.Ops {
		m.writes.WithLabelValues(writer, RecordClass(op.Key)).Inc()
	}
}

// resultOf returns the label of a transaction's result, as in raftstore's own metrics.
func resultOf(err error) string {
	var conflict *raftstore.ConflictError
	var refused *raftstore.ConstraintError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &conflict):
		return "conflict"
	case errors.As(err, &refused):
		return "refused"
	case errors.Is(err, raftstore.ErrUnknownOutcome):
		return "unknown"
	}
	return "error"
}

// otherRecords is the class of records whose keys users can choose.
const otherRecords = "other"

// RecordClass returns what a store key holds, for metrics and reports: the kind of an
// object, or the first two parts of another record's key, such as claims/host. There
// are only so many classes, whatever is stored.
func RecordClass(storeKey string) string {
	if kind, _, ok := kinds.ParseStoreKey(storeKey); ok {
		return kind.GVK.Kind
	}
	if strings.HasPrefix(storeKey, kinds.Root) {
		return otherRecords
	}
	parts := strings.SplitN(strings.TrimPrefix(storeKey, "/"), "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}
