package api

import (
	"context"
	"encoding/json"
	"net/http"
	goruntime "runtime"
	"strings"

	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/component-base/compatibility"

	"virtmesh/agent/api/subresources"
)

// kubernetesVersion is the version that /version reports.
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
	codecs := s.types.codecs
	list := discovery.NewAPIVersionHandler(codecs, subresources.GroupVersion, discovery.APIResourceListerFunc(subresources.Resources))
	refuse := func(w http.ResponseWriter, r *http.Request, err error) {
		responsewriters.ErrorNegotiated(err, codecs, subresources.GroupVersion, w, r)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case subresourcePath("version"):
			writeJSON(w, product)
		case subresourcePath("healthz"):
			writeJSON(w, map[string]any{"apiserver": map[string]string{"connectivity": "ok", "version": s.config.KubernetesVersion}})
		case subresourcePath("guestfs"):
			refuse(w, r, subresources.NoGuestFS())
		case "/apis/" + subresources.GroupVersion.String():
			list.ServeHTTP(w, r)
		default:
			if subresources.IsExpansion(r) {
				if err := subresources.ServeExpansion(w, r); err != nil {
					refuse(w, r, err)
				}
				return
			}
			api.ServeHTTP(w, r)
		}
	})
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // fails only when the client has disconnected
}

// readyCheck is one check of /readyz.
type readyCheck struct {
	name  string
	check func(context.Context) error
}

// Name implements healthz.HealthChecker.
func (c readyCheck) Name() string { return c.name }

// Check implements healthz.HealthChecker.
func (c readyCheck) Check(r *http.Request) error { return c.check(r.Context()) }
