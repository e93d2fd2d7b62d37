package api

import (
	"encoding/json"
	"net/http"
	goruntime "runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/version"
	endpointmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	apirest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/metrics/legacyregistry"
)

// restStorage shortens the tables of resources.
type restStorage = apirest.Storage

// kubernetesVersion is what /version tells.
type kubernetesVersion struct {
	compatibility.EffectiveVersion
	info *version.Info
}

func newVersion(e compatibility.EffectiveVersion, git string) compatibility.EffectiveVersion {
	info := versionInfo(git)
	return kubernetesVersion{EffectiveVersion: e, info: &info}
}

// Info implements compatibility.EffectiveVersion.
func (v kubernetesVersion) Info() *version.Info { return v.info }

func versionInfo(git string) version.Info {
	info := version.Info{
		GitVersion:   git,
		GitTreeState: "clean",
		BuildDate:    "1970-01-01T00:00:00Z",
		GoVersion:    goruntime.Version(),
		Compiler:     goruntime.Compiler,
		Platform:     goruntime.GOOS + "/" + goruntime.GOARCH,
	}
	if v, err := utilversion.ParseSemantic(git); err == nil {
		info.Major, info.Minor, _ = strings.Cut(v.WithPatch(0).String(), ".")
		info.Minor, _, _ = strings.Cut(info.Minor, ".")
	}
	return info
}

// extraPaths serves the paths of the subresources group that belong to no object.
func (s *Server) extraPaths(api http.Handler) http.Handler {
	product := versionInfo(s.config.Version)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case subresourcePath("version"):
			writeJSON(w, product)
		case subresourcePath("healthz"):
			writeJSON(w, map[string]any{"apiserver": map[string]string{"connectivity": "ok", "version": s.config.KubernetesVersion}})
		default:
			api.ServeHTTP(w, r)
		}
	})
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // an error here is the client's going away
}

// serveMetrics serves the library's metrics and the agent's own at one path.
func (s *Server) serveMetrics() {
	endpointmetrics.Register()
	gather := prometheus.Gatherers{withoutProcess{legacyregistry.DefaultGatherer}}
	if s.config.Metrics != nil {
		gather = append(gather, s.config.Metrics)
	} else {
		gather = prometheus.Gatherers{legacyregistry.DefaultGatherer}
	}
	s.generic.Handler.NonGoRestfulMux.Handle("/metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
}

// withoutProcess leaves out the metrics of the process and the Go runtime, which
// the agent's own registry has.
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
