package raftstore

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// leaseMetrics show the leases: those that this host asks for, and those that it gives
// while it leads.
type leaseMetrics struct {
	renewals *prometheus.CounterVec
	renewal  prometheus.Histogram
	fences   *prometheus.CounterVec
	late     prometheus.Counter
	reigns   prometheus.Counter

	mu  sync.Mutex
	own time.Duration // when this host's lease ends, on its clock; zero if it never had one
}

func newLeaseMetrics(latency []float64) *leaseMetrics {
	return &leaseMetrics{
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "lease_renewals_total", Help: "Leases asked for through this replica, by result.",
		}, []string{"result"}),
		renewal: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricPrefix + "lease_renewal_seconds", Help: "Time from the request for a lease until it was got.", Buckets: latency,
		}),
		fences: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "fences_total", Help: "Fences asked for through this replica, by result.",
		}, []string{"result"}),
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "lease_late_renewals_total", Help: "Renewals that this replica, as leader, got after the lease had run out.",
		}),
		reigns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "lease_reigns_total", Help: "Reigns that this replica began as leader.",
		}),
	}
}

// collectors returns the metrics to register, with the gauges of s.
func (m *leaseMetrics) collectors(s *Store) []prometheus.Collector {
	all := []prometheus.Collector{m.renewals, m.renewal, m.fences, m.late, m.reigns}
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help, ConstLabels: labels}, f))
	}
	gauge("lease_left_seconds", "Time until this host's own lease ends, -1 if it never had one.", nil, func() float64 {
		return m.left(s.cfg.BootTime())
	})
	for state, count := range map[string]func(leaseFigures) int{
		"held":    func(f leaseFigures) int { return f.held },
		"expired": func(f leaseFigures) int { return f.expired },
	} {
		gauge("leases", "Leases that this replica knows as leader, by state.", prometheus.Labels{"state": state}, func() float64 {
			return float64(count(s.leaseFigures()))
		})
	}
	gauge("fencing_wait_seconds", "Time until this replica, as leader, fences holders that it has not heard.", nil, func() float64 {
		return s.leaseFigures().wait.Seconds()
	})
	gauge("fenced_boots", "Records of fences in the local state.", nil, func() float64 {
		return float64(countPrefix(s.history.current().tree, FencesPrefix, ""))
	})
	return all
}

// observeRenewal notes the result of a request for a lease, and, if this host is the
// holder, until when it has it.
func (m *leaseMetrics) observeRenewal(took time.Duration, lease Lease, own bool, err error) {
	switch {
	case err == nil:
		m.renewals.WithLabelValues("ok").Inc()
		m.renewal.Observe(took.Seconds())
		if own {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.own = max(m.own, lease.Expires)
		}
	case errors.Is(err, ErrFenced):
		m.renewals.WithLabelValues("fenced").Inc()
	default:
		m.renewals.WithLabelValues("error").Inc()
	}
}

// left returns the seconds until this host's lease ends.
func (m *leaseMetrics) left(now time.Duration) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.own == 0 {
		return -1
	}
	return max(0, m.own-now).Seconds()
}

// observeFence notes the result of a request for a fence.
func (m *leaseMetrics) observeFence(err error) {
	result := "fenced"
	switch {
	case errors.As(err, new(*LeaseHeldError)):
		result = "held"
	case err != nil:
		result = "error"
	}
	m.fences.WithLabelValues(result).Inc()
}

// leaseFigures are what a leader knows of its reign.
type leaseFigures struct {
	held, expired int
	wait          time.Duration // until it fences holders that it has not heard
}

// leaseFigures returns the figures of the reign of this replica, none if it has none.
func (s *Store) leaseFigures() leaseFigures {
	term, now := s.readyTerm.Load(), s.cfg.BootTime()
	if !s.leads(term) {
		return leaseFigures{}
	}
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if t := s.leases.table; t != nil && t.term == term {
		return t.figures(now)
	}
	return leaseFigures{}
}
