package port

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/gossip/places"
)

// HeaderTimeout bounds how long a client may take to send a request's header.
const HeaderTimeout = 10 * time.Second

// idleTimeout bounds how long a connection may stay open without a request, whether or
// not its client has a certificate.
const idleTimeout = 90 * time.Second

// Strangers get less than clients with a certificate: they ask for a version or for health,
// or join, and need one short request at a time.
const (
	strangerStreams = 4
	strangerHeader  = 16 << 10
	// strangerBody is how much of a request's body is kept that nobody reads.
	strangerBody    = 16 << 10
	strangerTimeout = 30 * time.Second
	// A connection may make strangerBurst requests at once, and then strangerRate a second.
	strangerRate, strangerBurst = 2, 10
)

// openConnections bounds the connections to an address beside the mesh port, such as that
// of the metrics.
func openConnections() places.Limits {
	return places.Limits{Members: 1, MembersPerSource: 1, Strangers: 64, StrangersPerSource: 16}
}

// answerTimeout bounds how long a stopping server may take to finish its answers.
const answerTimeout = 2 * time.Second

// HTTPServers serve HTTP to users: the API on the mesh port and on the administration
// socket, and the metrics. Call Add or one like it for each listener, then Run once.
type HTTPServers struct {
	listeners []httpListener
	// users are the connections of clients that have shown who they are.
	users seats
}

// httpListener is one HTTP server on its listener.
type httpListener struct {
	server   *http.Server
	listener net.Listener
}

// Add serves handler on listener once Run runs. Close closes the listener.
func (s *HTTPServers) Add(listener net.Listener, handler http.Handler) {
	s.listeners = append(s.listeners, httpListener{server: newHTTPServer(guardRequests(listener, handler)), listener: listener})
}

// boundedListener bounds the open connections of a listener. The client with most of them
// gives way.
type boundedListener struct {
	net.Listener
	table *places.Table
}

func newBoundedListener(l net.Listener, limits places.Limits) *boundedListener {
	return &boundedListener{Listener: l, table: places.New(limits, func(netip.Addr) bool { return false })}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	place, _ := l.table.Take(places.AddrOf(conn.RemoteAddr()), 1, func() { places.Abort(conn) })
	return &placedConn{Conn: conn, place: place}, nil
}

// placedConn gives its place back when it is closed.
type placedConn struct {
	net.Conn
	place *places.Place
}

// Close implements net.Conn.
func (c *placedConn) Close() error {
	c.place.Leave()
	return c.Conn.Close()
}

// newHTTPServer returns a server for HTTP/1.1 and HTTP/2 that closes idle connections.
func newHTTPServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: HeaderTimeout, IdleTimeout: idleTimeout,
		Protocols: new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	return server
}

// Run serves until api returns; api runs what all the servers need. api gets ctx and
// must return when it ends. The servers then finish the answers in progress and stop.
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
		s.shutdownAll()
		return err
	})
	return group.Wait()
}

// shutdownAll stops the servers after they have written the answers in progress. A
// request to leave the mesh is what stops the agent, and its client must receive the
// answer.
func (s *HTTPServers) shutdownAll() {
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

// Close aborts the connections that are still served and closes the listeners,
// including those of servers that never ran.
func (s *HTTPServers) Close() {
	for _, l := range s.listeners {
		l.server.Close()
		l.listener.Close()
	}
}

// JudgeClients refuses requests whose client certificate judge rejects. The mesh port
// only checks a certificate when the connection is made, and a client can keep a busy
// connection open for as long as it likes. judge may take until the context of the request
// ends.
func JudgeClients(judge func(context.Context, *x509.Certificate) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			if err := judge(r.Context(), r.TLS.PeerCertificates[0]); err != nil {
				refuseClient(w, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// refuseClient answers a client of the Kubernetes API or of the mesh's own API with the
// reason why its certificate is refused, and closes the connection.
func refuseClient(w http.ResponseWriter, err error) {
	w.Header().Set("Connection", "close")
	fault.Write(w, fault.New(fault.Unauthorized, "%w", err))
}

// FromAdministrator returns the user whom the client's certificate names, which the mesh
// port has verified, and whether the user is an administrator.
func FromAdministrator(r *http.Request) (user string, allowed bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", false
	}
	subject := r.TLS.PeerCertificates[0].Subject
	return subject.CommonName, slices.Contains(subject.Organization, identity.AdminOrganization)
}

// AsHost serves requests with the identity of the host whose certificate leaf returns.
func AsHost(leaf func() *x509.Certificate, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{leaf()}}
		next.ServeHTTP(w, r)
	})
}
