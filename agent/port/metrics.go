package port

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Label values.
const (
	sideServer = "server"
	sideClient = "client"

	protoUnknown = "unknown"

	resultOK       = "ok"
	resultTimeout  = "timeout"
	resultAuth     = "auth"
	resultProtocol = "protocol"
	resultClosed   = "closed"
	resultRemote   = "remote"
	resultRefused  = "refused"
	resultError    = "error"
)

type metrics struct {
	registerer prometheus.Registerer
	handshakes *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	conns      *prometheus.GaugeVec
	dropped    *prometheus.CounterVec
	panics     *prometheus.CounterVec
	registered []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registerer: reg,
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_meshport_handshakes_total",
			Help: "TLS handshakes of the mesh port, by side, protocol and result.",
		}, []string{"side", "protocol", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "virtmesh_meshport_handshake_seconds",
			Help:    "Duration of successful TLS handshakes of the mesh port, by side.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"side"}),
		conns: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "virtmesh_meshport_connections",
			Help: "Open connections that the mesh port accepted, by protocol.",
		}, []string{"protocol"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_meshport_dropped_total",
			Help: "Connections that were closed because nobody accepted them in time, by protocol.",
		}, []string{"protocol"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_meshport_panics_total",
			Help: "Connections and requests that were cut off because their handler panicked, by protocol.",
		}, []string{"protocol"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.handshakes, m.seconds, m.conns, m.dropped, m.panics} {
		if err := reg.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("register mesh port metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func (m *metrics) countHandshake(side, proto, result string, took time.Duration) {
	m.handshakes.WithLabelValues(side, proto, result).Inc()
	if result == resultOK {
		m.seconds.WithLabelValues(side).Observe(took.Seconds())
	}
}

func (m *metrics) openConns(proto string) prometheus.Gauge { return m.conns.WithLabelValues(proto) }

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}
