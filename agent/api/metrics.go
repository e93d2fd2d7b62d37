package api

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	endpointmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// serveMetrics serves the metrics of the Kubernetes libraries and the agent's own at
// one path.
func (s *Server) serveMetrics() {
	endpointmetrics.Register()
	gather := prometheus.Gatherers{legacyregistry.DefaultGatherer}
	if s.config.Metrics != nil {
		gather = prometheus.Gatherers{withoutProcess{legacyregistry.DefaultGatherer}, s.config.Metrics}
	}
	s.generic.Handler.NonGoRestfulMux.Handle("/metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
}

// observedPaths are what MetricsHandler serves.
func observedPaths() []string { return []string{"/metrics", "/healthz", "/livez", "/readyz"} }

// MetricsHandler returns the handler of an address that asks for no credentials: it serves the
// metrics and the health of the server at observedPaths, and has no way to the API.
func (s *Server) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range observedPaths() {
		mux.Handle("GET "+path, s.generic.Handler.NonGoRestfulMux)
	}
	return mux
}

// withoutProcess removes the metrics of the process and the Go runtime, because the
// agent's own registry has them too.
type withoutProcess struct{ inner prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (g withoutProcess) Gather() ([]*dto.MetricFamily, error) {
	all, err := g.inner.Gather()
	var kept []*dto.MetricFamily
	for _, f := range all {
		if !strings.HasPrefix(f.GetName(), "go_") && !strings.HasPrefix(f.GetName(), "process_") {
			kept = append(kept, f)
		}
	}
	return kept, err
}
