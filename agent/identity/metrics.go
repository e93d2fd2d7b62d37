package identity

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// renewMetrics are the metrics of a Renewer. Without a registerer they are counted but
// not exported.
type renewMetrics struct {
	registerer prometheus.Registerer
	renewals   *prometheus.CounterVec
	collectors []prometheus.Collector
}

func newRenewMetrics(reg prometheus.Registerer, id *Identity) (*renewMetrics, error) {
	m := &renewMetrics{
		registerer: reg,
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_identity_renewals_total",
			Help: "Attempts to renew this host's certificate, by result.",
		}, []string{"result"}),
	}
	m.renewals.WithLabelValues("success")
	m.renewals.WithLabelValues("failure")
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "virtmesh_identity_certificate_expiry_timestamp_seconds",
		Help: "When this host's certificate expires, in seconds since 1970.",
	}, func() float64 { return float64(id.Leaf().NotAfter.Unix()) })
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.renewals, expiry} {
		if err := reg.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("register identity metrics: %w", err)
		}
		m.collectors = append(m.collectors, c)
	}
	return m, nil
}

func (m *renewMetrics) count(err error) {
	result := "success"
	if err != nil {
		result = "failure"
	}
	m.renewals.WithLabelValues(result).Inc()
}

func (m *renewMetrics) unregister() {
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
	m.collectors = nil
}
