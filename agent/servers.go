package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/api"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/guests"
)

// SetLibraryLogger sends what libraries log on their own to log, for the whole
// program. It must be called before New.
func SetLibraryLogger(log *slog.Logger) { api.SetLibraryLogger(log) }

// headerTimeout bounds how long a client may take to send a request's header.
const headerTimeout = 10 * time.Second

// idleTimeout bounds how long a connection may stay open without a request, with
// a certificate or without.
const idleTimeout = 90 * time.Second

// servers answer users and other hosts.
type servers struct {
	api       *api.Server
	listeners []*httpListener
}

// httpListener is one HTTP server on its listener.
type httpListener struct {
	server   *http.Server
	listener net.Listener
}

func (a *Agent) startServers(context.Context) error {
	rpcListener, err := a.port.Listen(port.ProtoRPC)
	if err != nil {
		return err
	}
	rpc := port.ServeRPC(rpcListener, guests.NewHandler(a.host.guests(), a.host.judge, a.log), a.log.With("part", "hostrpc"))
	a.onStop(func(ctx context.Context) { rpc.Shutdown(ctx) })

	cfg := api.DefaultConfig()
	cfg.Store = a.host.replica
	cfg.Instances = a.host.router
	cfg.ClientCAs = a.identity.Roots
	cfg.Logger = a.log.With("part", "api")
	cfg.Metrics = a.metrics
	cfg.Ready = map[string]func(context.Context) error{"store": a.storeReady}
	cfg.Address = a.config.MeshAddress()
	server, err := api.New(cfg)
	if err != nil {
		return err
	}
	a.servers = &servers{api: server}
	for _, listen := range []func() error{a.listenMesh, a.listenSocket, a.listenMetrics} {
		if err := listen(); err != nil {
			return err
		}
	}
	return nil
}

// storeReady tells whether this host can answer for the mesh.
func (a *Agent) storeReady(context.Context) error {
	if err := a.store.Err(); err != nil {
		return err
	}
	if leader, _ := a.store.Leader(); leader == "" {
		return errors.New("no leader is known")
	}
	return nil
}

// listenMesh serves the API on the mesh port.
func (a *Agent) listenMesh() error {
	listener, err := a.port.API()
	if err != nil {
		return err
	}
	mesh := admin.NewHandler(a, isAdministrator)
	a.serve(listener, a.stillGood(withMesh(mesh, a.servers.api.Handler())))
	return nil
}

// listenSocket serves the API to root on this host, who acts as the host
// itself: whoever may open the socket can read the host's key as well.
func (a *Agent) listenSocket() error {
	listener, err := openSocket(a.config.Socket())
	if err != nil {
		return err
	}
	mesh := admin.NewHandler(a, func(*http.Request) bool { return true })
	a.serve(listener, withBackup(a.store.Backup, withMesh(mesh, a.asHost(a.servers.api.Handler()))))
	return nil
}

func openSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make way for the administration socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the administration socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("protect the administration socket: %w", err)
	}
	return listener, nil
}

// openPaths are served without credentials on the metrics address.
var openPaths = []string{"/metrics", "/healthz", "/livez", "/readyz"}

// listenMetrics serves metrics and health to monitoring.
func (a *Agent) listenMetrics() error {
	if a.config.MetricsListen == "" {
		return nil
	}
	listener, err := net.Listen("tcp", a.config.MetricsListen)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	all := a.asHost(a.servers.api.Handler())
	a.serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !slices.Contains(openPaths, r.URL.Path) {
			http.NotFound(w, r)
			return
		}
		all.ServeHTTP(w, r)
	}))
	return nil
}

// serve makes listener part of what run serves. Requests that outlive the
// drain of the API are cut off.
func (a *Agent) serve(listener net.Listener, handler http.Handler) {
	server := newHTTPServer(handler)
	a.servers.listeners = append(a.servers.listeners, &httpListener{server: server, listener: listener})
	a.onStop(func(context.Context) { server.Close() })
}

// newHTTPServer serves HTTP/1.1 and HTTP/2. It ends connections on which nothing
// is asked.
func newHTTPServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		Protocols: new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	return server
}

func (s *servers) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		group.Go(func() error {
			err := l.server.Serve(l.listener)
			if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("serve %s: %w", l.listener.Addr(), err)
		})
	}
	group.Go(func() error {
		err := s.api.Run(ctx)
		s.close()
		return err
	})
	return group.Wait()
}

// answerTimeout bounds how long a stopping server finishes answers.
const answerTimeout = 2 * time.Second

// close ends the servers when the answers under way are written: a request to leave
// the mesh is what stops the agent, and its client must hear that it did.
func (s *servers) close() {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	var ends sync.WaitGroup
	for _, l := range s.listeners {
		ends.Go(func() {
			if l.server.Shutdown(ctx) != nil {
				l.server.Close()
			}
		})
	}
	ends.Wait()
}

// withMesh puts the mesh's own API beside the Kubernetes one.
func withMesh(mesh, kubernetes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/mesh/v1/") {
			mesh.ServeHTTP(w, r)
			return
		}
		kubernetes.ServeHTTP(w, r)
	})
}

// stillGood refuses requests whose client's certificate has ended, or names a host
// that was removed, since the connection was made: the mesh port judged it then,
// and a connection that is kept busy lasts as long as its client likes.
func (a *Agent) stillGood(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			if err := a.judge(r.TLS.PeerCertificates[0]); err != nil {
				refuse(w, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// refuse tells a client, of the Kubernetes API or of the mesh's own, why its
// certificate is not taken, and ends the connection.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Reason: metav1.StatusReasonUnauthorized, Code: http.StatusUnauthorized, Message: err.Error(),
	})
}

// judge says why a client certificate is good no more.
func (a *Agent) judge(cert *x509.Certificate) error {
	if time.Now().After(cert.NotAfter) {
		return fmt.Errorf("the client certificate ended at %s", cert.NotAfter.Format(time.RFC3339))
	}
	if !identity.ClaimsNode(cert) {
		return nil
	}
	node, err := identity.NodeOf(cert)
	if err != nil {
		return err
	}
	return a.admit(node)
}

// isAdministrator tells whether the client's certificate, which the mesh port
// has verified, names an administrator.
func isAdministrator(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.PeerCertificates) > 0 &&
		slices.Contains(r.TLS.PeerCertificates[0].Subject.Organization, identity.AdminOrganization)
}

// asHost serves requests in the name of this host.
func (a *Agent) asHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{a.identity.Leaf()}}
		next.ServeHTTP(w, r)
	})
}
