package raftstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const metricPrefix = "virtmesh_store_"

// metrics are the store's counters and histograms. Gauges are read from the store at
// scrape time, see register.
type metrics struct {
	registerer prometheus.Registerer
	registered []prometheus.Collector

	txns         *prometheus.CounterVec
	retries      prometheus.Counter
	commit       prometheus.Histogram
	batch        prometheus.Histogram
	entries      prometheus.Counter
	readIndex    prometheus.Histogram
	snapshots    *prometheus.CounterVec
	logErrors    prometheus.Counter
	slowWatchers prometheus.Counter
	panics       prometheus.Counter
	mismatches   prometheus.Counter
	leases       *leaseMetrics
}

func newMetrics(r prometheus.Registerer) *metrics {
	latency := prometheus.ExponentialBuckets(0.0005, 2, 14)
	return &metrics{
		registerer: r,
		txns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "txns_total", Help: "Transactions committed through this replica, by result.",
		}, []string{"result"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "txn_retries_total", Help: "Commit attempts that were retried.",
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricPrefix + "commit_seconds", Help: "Time from the start of a commit until its result is visible on this replica.", Buckets: latency,
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricPrefix + "entry_txns", Help: "Transactions in one log entry.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "entries_applied_total", Help: "Log entries applied.",
		}),
		readIndex: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricPrefix + "read_index_seconds", Help: "Duration of a read index round, which makes reads linearizable.", Buckets: latency,
		}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "snapshots_total", Help: "Snapshots taken, by result.",
		}, []string{"result"}),
		logErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "log_errors_total", Help: "Failures to read or write the log.",
		}),
		slowWatchers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "slow_watchers_total", Help: "Watches ended because their reader was too slow.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "panics_total", Help: "Connections of peers that were closed because their handler panicked.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "digest_mismatches_total", Help: "Comparisons that found replicas whose states differ.",
		}),
		leases: newLeaseMetrics(latency),
	}
}

// register registers all metrics, including the store's gauges.
func (m *metrics) register(s *Store) error {
	if m.registerer == nil {
		return nil
	}
	all := []prometheus.Collector{
		m.txns, m.retries, m.commit, m.batch, m.entries, m.readIndex, m.snapshots, m.logErrors, m.slowWatchers, m.panics, m.mismatches,
	}
	gauge := func(name, help string, f func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help}, f))
	}
	gauge("leader", "1 if this replica is the leader.", func() float64 {
		if s.IsLeader() {
			return 1
		}
		return 0
	})
	gauge("has_leader", "1 if this replica knows a leader.", func() float64 {
		if _, id := s.raft.LeaderWithID(); id != "" {
			return 1
		}
		return 0
	})
	gauge("follows", "1 if this replica is outside the Raft configuration and is fed by another one.", func() float64 {
		if s.position() == follows {
			return 1
		}
		return 0
	})
	gauge("fed_followers", "Followers that get entries from this replica.", func() float64 { return float64(s.source.count()) })
	gauge("leader_contact_seconds", "Time since the leader was last heard, -1 if it never was.", func() float64 {
		if age := s.lastContact(); age >= 0 {
			return age.Seconds()
		}
		return -1
	})
	all = append(all, haltedGauge(func() bool { return s.Err() != nil }), ballastGauge(s.disk.ballast))
	all = append(all, m.leases.collectors(s)...)
	gauge("term", "Current term.", func() float64 { return float64(s.raft.CurrentTerm()) })
	gauge("commit_index", "Last log index known to be committed.", func() float64 { return float64(s.raft.CommitIndex()) })
	gauge("last_index", "Last log index stored.", func() float64 { return float64(s.raft.LastIndex()) })
	gauge("applied_index", "Last log index applied.", func() float64 { return float64(s.raft.AppliedIndex()) })
	gauge("log_lag", "Committed entries not yet applied.", func() float64 {
		return float64(s.raft.CommitIndex()) - float64(min(s.raft.AppliedIndex(), s.raft.CommitIndex()))
	})
	gauge("revision", "Revision of the local state.", func() float64 { return float64(s.Revision()) })
	gauge("keys", "Records in the local state.", func() float64 { return float64(s.history.current().tree.Len()) })
	gauge("bytes", "Bytes of keys and values in the local state.", func() float64 { return float64(s.history.current().bytes) })
	gauge("watchers", "Open watches.", func() float64 { return float64(s.history.stats().watchers) })
	gauge("history_events", "Events kept for watches.", func() float64 { return float64(s.history.stats().events) })
	gauge("history_bytes", "Bytes of the events kept for watches.", func() float64 { return float64(s.history.stats().bytes) })
	for _, c := range all {
		if err := m.registerer.Register(c); err != nil {
			m.unregister()
			return fmt.Errorf("register store metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return nil
}

// haltedGauge shows whether a replica has halted.
func haltedGauge(halted func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricPrefix + "halted", Help: "1 if this replica has halted."}, func() float64 {
		if halted() {
			return 1
		}
		return 0
	})
}

// ReportHalted registers the metric of a halted replica, for one that could not be opened
// and so shows no metrics itself.
func ReportHalted(r prometheus.Registerer) error {
	if err := r.Register(haltedGauge(func() bool { return true })); err != nil {
		return fmt.Errorf("register store metrics: %w", err)
	}
	return nil
}

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}

// observeTxn counts the result of a Commit.
func (m *metrics) observeTxn(begin time.Time, err error) {
	result := "ok"
	switch {
	case err == nil:
		m.commit.Observe(time.Since(begin).Seconds())
	case errors.As(err, new(*ConflictError)):
		result = "conflict"
	case errors.As(err, new(*ConstraintError)):
		result = "refused"
	case errors.Is(err, ErrUnknownOutcome):
		result = "unknown"
	default:
		result = "error"
	}
	m.txns.WithLabelValues(result).Inc()
}
