package containerdisk

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	pulls    *prometheus.CounterVec
	received prometheus.Counter
	evicted  prometheus.Counter
}

func newMetrics(r prometheus.Registerer, c *Cache) (*metrics, error) {
	m := &metrics{
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "virtmesh_image_pulls_total",
			Help: "Requests for images, by how they ended."}, []string{"result"}),
		received: prometheus.NewCounter(prometheus.CounterOpts{Name: "virtmesh_image_received_bytes_total",
			Help: "Bytes of image layers received from registries."}),
		evicted: prometheus.NewCounter(prometheus.CounterOpts{Name: "virtmesh_image_evictions_total",
			Help: "Images removed from the cache to make room."}),
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, collector := range []prometheus.Collector{m.pulls, m.received, m.evicted,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "virtmesh_image_cache_bytes",
			Help: "Bytes the cached images occupy."}, func() float64 { return float64(c.Used()) })} {
		errs = append(errs, r.Register(collector))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) pulled(err error) { m.pulls.WithLabelValues(resultLabel(err)).Inc() }

// resultLabel returns the label for the result of a pull. It has few values.
func resultLabel(err error) string {
	for _, r := range []struct {
		class error
		label string
	}{
		{nil, "ok"}, {ErrImageNotFound, "not_found"}, {ErrUnauthorized, "unauthorized"},
		{ErrRegistryTimeout, "stalled"}, {ErrRegistryUnavailable, "unavailable"}, {ErrCorrupt, "corrupt"},
		{ErrNotAnImage, "not_an_image"}, {ErrArchitecture, "architecture"}, {ErrTooLarge, "too_large"}, {ErrNoSpace, "no_space"},
		{ErrNotPresent, "not_present"}, {ErrBadReference, "bad_reference"},
		{context.Canceled, "canceled"}, {context.DeadlineExceeded, "canceled"},
	} {
		if errors.Is(err, r.class) {
			return r.label
		}
	}
	return "error"
}
