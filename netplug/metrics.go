package netplug

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of a Plug. Its servers have their own.
type metrics struct {
	taps    prometheus.Gauge
	bridges prometheus.Gauge
	leases  prometheus.Gauge
	failed  prometheus.Gauge
	steps   prometheus.Counter
	// filterLost counts how often a Set found the filter changed by others.
	filterLost prometheus.Counter
	sets       *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "virtmesh_netplug_" + name, Help: help})
	}
	m := &metrics{
		taps:    gauge("taps", "Taps wanted on this host."),
		bridges: gauge("bridges", "Bridges wanted on this host."),
		leases:  gauge("dhcp_reservations", "Addresses that DHCP serves on this host."),
		failed:  gauge("failed_parts", "Parts of the network that the last change could not make as wanted."),
		steps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "virtmesh_netplug_steps_total",
			Help: "Changes planned to the network of this host.",
		}),
		filterLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "virtmesh_netplug_filter_lost_total",
			Help: "How often something else had changed or removed the packet filter of the guests.",
		}),
		sets: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "virtmesh_netplug_set_duration_seconds",
			Help:    "How long it took to make the network match what is wanted.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"result"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.taps, m.bridges, m.leases, m.failed, m.steps, m.filterLost, m.sets} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register network metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observeSet(took time.Duration, w Want, res Result, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.sets.WithLabelValues(result).Observe(took.Seconds())
	m.failed.Set(float64(len(res.Failed)))
	m.steps.Add(float64(len(res.Plan.Steps)))
	m.taps.Set(float64(len(w.Taps)))
	m.bridges.Set(float64(len(w.Bridges)))
	leases := 0
	for _, b := range w.Bridges {
		leases += len(reservations(b, w.Taps))
	}
	m.leases.Set(float64(leases))
}
