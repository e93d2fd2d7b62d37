package api

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/util/compatibility"
	clientrest "k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api/access"
	"virtmesh/agent/api/audit"
	"virtmesh/agent/api/pods"
	"virtmesh/agent/api/registry"
	"virtmesh/agent/api/reviews"
	"virtmesh/agent/api/store"
	"virtmesh/agent/api/subresources"
	"virtmesh/agent/api/tokens"
	"virtmesh/agent/kinds"
)

const (
	// minWatchTime is the minimum time after which the server ends a watch that
	// requests no timeout, so that clients spread over the hosts again.
	minWatchTime = 30 * time.Minute
	// maxBody bounds the body of a request.
	maxBody = 3 << 20
)

// Server serves the API. Create one with New, pass its Handler to the owner of the TLS
// port, and call Run.
type Server struct {
	config  Config
	types   *types
	generic *genericapiserver.GenericAPIServer
	drain   *drain
	streams *streams
	tokens  *tokens.Authenticator // nil if nobody can use tokens
}

// New assembles a Server. It does not read or write the store yet.
func New(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	all := kinds.All()
	if err := kinds.Check(all); err != nil {
		return nil, err
	}
	t, err := newTypes(all)
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, types: t, drain: newDrain(), streams: newStreams()}
	if config.Tokens.Signer != nil {
		config.Tokens.Logger = config.Logger
		s.tokens = tokens.New(config.Tokens)
	}
	generic := s.genericConfig(t, &restOptions{backend: config.Store, patience: config.Patience, turns: store.NewTurns(config.MaxReads)})
	s.generic, err = generic.Complete(nil).New("virtmesh", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("assemble API server: %w", err)
	}
	groups, err := newGroups(config, t, all, generic)
	if err != nil {
		return nil, err
	}
	i, err := newInstaller(s.generic, generic, t, groups)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := i.installGroup(g); err != nil {
			return nil, err
		}
	}
	s.serveMetrics()
	s.generic.PrepareRun()
	return s, nil
}

// genericConfig returns the configuration of the API server library.
func (s *Server) genericConfig(t *types, options *restOptions) *genericapiserver.Config {
	c := genericapiserver.NewConfig(t.codecs)
	c.ExternalAddress = s.config.Address
	c.EffectiveVersion = newVersion(compatibility.DefaultBuildEffectiveVersion(), s.config.KubernetesVersion)
	// The server never calls itself over the network.
	c.LoopbackClientConfig = &clientrest.Config{}
	c.RESTOptionsGetter = options
	c.Authentication.Authenticator = newAuthenticator(s.config.ClientCAs, s.tokenAuthenticator())
	rights := judge{roles: s.config.Authorizer, level: s.config.Store.FeatureLevel}
	c.Authorization.Authorizer = rights
	c.AdmissionControl = admission.NewChainHandler(s.admission(rights)...)
	c.MaxRequestsInFlight = s.config.MaxReads
	c.MaxMutatingRequestsInFlight = s.config.MaxWrites
	c.RequestTimeout = s.config.RequestTimeout
	c.MaxRequestBodyBytes = maxBody
	c.RequestInfoResolver = subresources.Resolver{RequestInfoResolver: genericapiserver.NewRequestInfoResolver(c)}
	c.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString(subresources.Streams()...))
	c.AuditBackend, c.AuditPolicyRuleEvaluator = s.config.Audit.Backend(), s.config.Audit.Rules()
	c.EnableProfiling = false
	c.EnableMetrics = false // served together with the agent's own
	c.StorageObjectCountTracker = nil
	c.BuildHandlerChainFunc = s.handlerChain
	for name, check := range s.config.Ready {
		c.ReadyzChecks = append(c.ReadyzChecks, readyCheck{name: name, check: check})
	}
	setOpenAPI(c, t.scheme)
	return c
}

// admission returns what judges and completes the objects that clients write.
func (s *Server) admission(rights judge) []admission.Interface {
	chain := []admission.Interface{
		newNamespaceLifecycle(s.config.Store), newDefaultClass(s.config.Store), newVoterNames(s.config.Store), newRequester(),
	}
	if s.config.Authorizer != nil {
		chain = append(chain, access.NewEscalation(s.config.Authorizer, rights))
	}
	return chain
}

// handlerChain wraps the library's filters around the API, and adds the paths that are
// not resources.
func (s *Server) handlerChain(api http.Handler, c *genericapiserver.Config) http.Handler {
	chain := audit.BoundIDs(genericapiserver.DefaultBuildHandlerChain(s.streams.bound(checkPatches(s.extraPaths(api), c.Serializer), c), c))
	if s.tokens == nil {
		return s.drain.filter(chain, nil, c)
	}
	return s.drain.filter(s.tokens.JudgeFirst(chain), s.tokens.Sessions().Begin, c)
}

// tokenAuthenticator returns what recognises tokens, nil if nothing does.
func (s *Server) tokenAuthenticator() authenticator.Token {
	if s.tokens == nil {
		return nil
	}
	return s.tokens
}

// RecognisesToken returns the user whose token a client shows, in any way that the API takes one,
// and reports whether it is valid now. It is for those who serve clients without a certificate, and
// give those who are known what strangers do not get. It asks no other host, whatever is shown.
func (s *Server) RecognisesToken(r *http.Request) (user string, known bool) {
	if s.tokens == nil {
		return "", false
	}
	return s.tokens.Recognises(r)
}

// newGroups returns the API groups with their storage.
func newGroups(config Config, t *types, all []*kinds.Kind, generic *genericapiserver.Config) ([]group, error) {
	byVersion := map[schema.GroupVersion]*group{}
	var groups []group
	for _, k := range all {
		gv := k.GVK.GroupVersion()
		g, ok := byVersion[gv]
		if !ok {
			g = &group{version: gv, storage: map[string]rest.Storage{}, serializer: t.serializer(all, gv.Group)}
			byVersion[gv] = g
		}
		storage, err := registry.New(t.scheme, k, registry.Mesh{Defaults: config.Defaults, Level: config.Store.FeatureLevel}, generic.RESTOptionsGetter)
		if err != nil {
			return nil, err
		}
		for path, s := range storage {
			g.storage[path] = s
		}
	}
	launchers := pods.NewREST(decodedInstances{byVersion[kubevirtv1.GroupVersion].storage["virtualmachineinstances"].(*registry.REST)})
	byVersion[corev1.SchemeGroupVersion].storage["pods"] = launchers
	byVersion[corev1.SchemeGroupVersion].storage["pods/eviction"] = pods.NewEviction(launchers)
	if config.Tokens.Signer != nil {
		byVersion[corev1.SchemeGroupVersion].storage["serviceaccounts/token"] = tokens.NewREST(config.Tokens)
	}
	for _, g := range byVersion {
		groups = append(groups, *g)
	}
	groups = append(groups, group{
		version: subresources.GroupVersion,
		storage: subresources.Storage(subresources.Config{
			Objects:   newObjects(byVersion[kubevirtv1.GroupVersion].storage),
			Instances: config.Instances,
		}),
		serializer: jsonOnly{t.codecs},
		listed:     subresources.Resources(),
	})
	for gv, storage := range reviews.Storage(judge{roles: config.Authorizer, level: config.Store.FeatureLevel}, generic.Authentication.Authenticator) {
		groups = append(groups, group{version: gv, storage: storage, serializer: t.codecs})
	}
	sortGroups(groups)
	return groups, nil
}

// Handler returns the handler of all requests. It may be called before Run, but
// /readyz fails until then.
func (s *Server) Handler() http.Handler { return s.generic.Handler }

// RootHandler is Handler for requests that only root on this host can send. They need the
// certificate of the host, and have the rights of an administrator.
func (s *Server) RootHandler() http.Handler { return fromRoot(s.generic.Handler) }

// Run creates the objects that must exist, and keeps the server ready until ctx ends.
// It returns when all requests have ended: it ends watches and streams at once, and
// gives other requests up to Config.RequestTimeout.
func (s *Server) Run(ctx context.Context) error {
	s.generic.RunPostStartHooks(ctx)
	if s.tokens != nil {
		var sessions sync.WaitGroup
		sessions.Go(func() { s.tokens.Sessions().Run(ctx) })
		defer sessions.Wait()
	}
	err := s.seedDefaultNamespace(ctx)
	if err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	s.drain.end(s.config.RequestTimeout)
	if err := s.generic.RunPreShutdownHooks(); err != nil {
		return fmt.Errorf("stop API server: %w", err)
	}
	s.generic.Destroy()
	return nil
}
