package schedule

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// Results of decisions. A refused offer or a lost race ends one try, and the
// next host is tried. The other results end the placement, for now or for good.
const (
	resultPlaced        = "placed"
	resultUnschedulable = "unschedulable"
	resultHeld          = "held"
	resultRefusedOffer  = "refused_offer"
	resultConflict      = "conflict"
	resultError         = "error"
)

// metrics are the figures of placement, besides those that every controller has.
type metrics struct {
	decisions *prometheus.CounterVec
	latency   prometheus.Histogram
	reg       prometheus.Registerer

	mu    sync.Mutex
	taken map[stewards.Key]taken // instances on their way to a host
}

// taken is the time at which this steward first handled an instance.
type taken struct {
	uid types.UID
	at  time.Time
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_placement_decisions_total",
			Help: "Decisions about where an instance runs, by result: placed, unschedulable, held (a volume is not ready), refused_offer, conflict, error.",
		}, []string{"result"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "virtmesh_placement_latency_seconds",
			Help:    "Time from when this steward took an instance up to its claim, waits for room and volumes included.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}),
		reg:   reg,
		taken: map[stewards.Key]taken{},
	}
	for _, result := range []string{resultPlaced, resultUnschedulable, resultHeld, resultRefusedOffer, resultConflict, resultError} {
		m.decisions.WithLabelValues(result)
	}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.collectors() {
		if err := reg.Register(c); err != nil {
			for _, done := range m.collectors()[:i] {
				reg.Unregister(done)
			}
			return nil, fmt.Errorf("register placement metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.decisions, m.latency}
}

// unregister lets another controller start in the same process.
func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.collectors() {
		m.reg.Unregister(c)
	}
}

func (m *metrics) count(result string) { m.decisions.WithLabelValues(result).Inc() }

// noteStart records when this steward first handled an instance. Another
// instance of the same name is measured from its own start.
func (m *metrics) noteStart(key stewards.Key, uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.taken[key]; !ok || t.uid != uid {
		m.taken[key] = taken{uid: uid, at: time.Now()}
	}
}

// placed counts an instance that has its claim.
func (m *metrics) placed(key stewards.Key) {
	m.count(resultPlaced)
	m.mu.Lock()
	t, ok := m.taken[key]
	m.mu.Unlock()
	if ok {
		m.latency.Observe(time.Since(t.at).Seconds())
	}
}

// failed counts a claim that could not be written.
func (m *metrics) failed(err error) {
	_, refused := objects.Refused(err)
	switch {
	case refused || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		m.count(resultConflict)
	default:
		m.count(resultError)
	}
}

// forgetInstance stops measuring the placement of an instance, whatever its
// result.
func (m *metrics) forgetInstance(key stewards.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.taken, key)
}
