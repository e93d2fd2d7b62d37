package stewards

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// metrics are the figures of one controller. Every metric carries the
// controller's name as a constant label, so that all controllers of an agent
// can share one registry.
type metrics struct {
	results  *prometheus.CounterVec
	duration prometheus.Histogram
	waiting  prometheus.Histogram
	panics   prometheus.Counter
	// undeclared counts the refused transactions: those that write something
	// that the steward does not declare.
	undeclared prometheus.Counter
	depth      prometheus.GaugeFunc
	reg        prometheus.Registerer

	mu    sync.Mutex
	since map[Key]time.Time // when a queued key was first asked for
}

func newMetrics(name string, reg prometheus.Registerer, depth func() int) (*metrics, error) {
	labels := prometheus.Labels{"controller": name}
	latencies := []float64{.001, .005, .01, .05, .1, .5, 1, 5, 30, 60}
	m := &metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_controller_reconcile_total", ConstLabels: labels,
			Help: "Reconciliations by result: success, conflict or error.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "virtmesh_controller_reconcile_duration_seconds", ConstLabels: labels, Buckets: latencies,
			Help: "Time one reconciliation took.",
		}),
		waiting: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "virtmesh_controller_queue_latency_seconds", ConstLabels: labels, Buckets: latencies,
			Help: "Time a key waited in the queue before a worker took it.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "virtmesh_controller_panics_total", ConstLabels: labels,
			Help: "Reconciliations that panicked.",
		}),
		undeclared: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "virtmesh_controller_undeclared_writes_total", ConstLabels: labels,
			Help: "Transactions refused because the controller does not declare what they write.",
		}),
		depth: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "virtmesh_controller_queue_depth", ConstLabels: labels,
			Help: "Keys waiting in the queue.",
		}, func() float64 { return float64(depth()) }),
		reg:   reg,
		since: map[Key]time.Time{},
	}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.collectors() {
		if err := reg.Register(c); err != nil {
			for _, done := range m.collectors()[:i] {
				reg.Unregister(done)
			}
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.results, m.duration, m.waiting, m.panics, m.undeclared, m.depth}
}

// unregister removes the metrics from the registry, so that a controller of the
// same name can start in the same process.
func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.collectors() {
		m.reg.Unregister(c)
	}
}

func (m *metrics) added(key Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.since[key]; !ok {
		m.since[key] = time.Now()
	}
}

func (m *metrics) started(key Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.since[key]; ok {
		m.waiting.Observe(time.Since(t).Seconds())
		delete(m.since, key)
	}
}

func (m *metrics) finished(start time.Time, err error) {
	m.duration.Observe(time.Since(start).Seconds())
	result := "success"
	switch {
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		result = "conflict"
	case err != nil:
		result = "error"
	}
	m.results.WithLabelValues(result).Inc()
}
