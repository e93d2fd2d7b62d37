package port

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// HeaderTimeout bounds how long a client may take to send a request's header.
const HeaderTimeout = 10 * time.Second

// idleTimeout bounds how long a connection may stay open without a request, with
// a certificate or without.
const idleTimeout = 90 * time.Second

// answerTimeout bounds how long a stopping server finishes answers.
const answerTimeout = 2 * time.Second

// HTTPServers serve users: the API on the mesh port, on the administration socket
// and where metrics are read. Add what they serve, then Run them once.
type HTTPServers struct {
	listeners []httpListener
}

// httpListener is one HTTP server on its listener.
type httpListener struct {
	server   *http.Server
	listener net.Listener
}

// Add serves handler on listener once Run runs. Close closes the listener.
func (s *HTTPServers) Add(listener net.Listener, handler http.Handler) {
	s.listeners = append(s.listeners, httpListener{server: newHTTPServer(handler), listener: listener})
}

// newHTTPServer serves HTTP/1.1 and HTTP/2. It ends connections on which nothing
// is asked.
func newHTTPServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: HeaderTimeout, IdleTimeout: idleTimeout,
		Protocols: new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	return server
}

// Run serves as long as api runs, what all the servers serve. When api ends, for
// which it has ctx, the servers finish the answers under way and stop.
func (s *HTTPServers) Run(ctx context.Context, api func(context.Context) error) error {
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
		err := api(ctx)
		s.finish()
		return err
	})
	return group.Wait()
}

// finish ends the servers when the answers under way are written: a request to leave
// the mesh is what stops the agent, and its client must hear that it did.
func (s *HTTPServers) finish() {
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

// Close cuts off what is still served and closes the listeners, also of servers
// that never ran.
func (s *HTTPServers) Close() {
	for _, l := range s.listeners {
		l.server.Close()
		l.listener.Close()
	}
}

// JudgeClients refuses requests whose client's certificate judge has something
// against: the mesh port judged it when the connection was made, and a connection
// that is kept busy lasts as long as its client likes.
func JudgeClients(judge func(*x509.Certificate) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			if err := judge(r.TLS.PeerCertificates[0]); err != nil {
				refuseClient(w, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// refuseClient tells a client, of the Kubernetes API or of the mesh's own, why its
// certificate is not taken, and ends the connection.
func refuseClient(w http.ResponseWriter, err error) {
	w.Header().Set("Connection", "close")
	fault.Write(w, fault.New(fault.Unauthorized, "%w", err))
}

// FromAdministrator tells whether the client's certificate, which the mesh port
// has verified, names an administrator.
func FromAdministrator(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.PeerCertificates) > 0 &&
		slices.Contains(r.TLS.PeerCertificates[0].Subject.Organization, identity.AdminOrganization)
}

// AsHost serves requests in the name of the host whose certificate leaf returns.
func AsHost(leaf func() *x509.Certificate, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{leaf()}}
		next.ServeHTTP(w, r)
	})
}
