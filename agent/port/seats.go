package port

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/identity"
	"virtmesh/gossip/places"
)

const (
	// seatsPerUser is how many connections one user or service account has to a host, and seatsOfAll
	// how many all of them have together. Administrators and hosts need no seats, so nobody can take
	// theirs.
	seatsPerUser = 256
	seatsOfAll   = 2048
	// A connection without a seat may stay for tellTime, to be told why, if there are no more than
	// maxTold of them.
	tellTime = 10 * time.Second
	maxTold  = 64
)

// seats are the places for connections of clients that have shown who they are. The zero value has
// them all free. Its methods may be called concurrently.
type seats struct {
	mu      sync.Mutex
	ofConn  map[net.Conn]string // the user
	perUser map[string]int
	told    int
}

// take gives a connection a seat, unless its user, or all users together, have as many as there can
// be. A connection that has one keeps it.
func (s *seats) take(conn net.Conn, user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, seated := s.ofConn[conn]; seated {
		return true
	}
	if len(s.ofConn) >= seatsOfAll || s.perUser[user] >= seatsPerUser {
		return false
	}
	if s.ofConn == nil {
		s.ofConn, s.perUser = map[net.Conn]string{}, map[string]int{}
	}
	s.ofConn[conn] = user
	s.perUser[user]++
	return true
}

// follow gives the seat of a connection back when it ends; it is an http.Server's ConnState. A
// connection that is a stream from now on gives it back too: the API bounds streams.
func (s *seats) follow(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	user, seated := s.ofConn[conn]
	if !seated {
		return
	}
	delete(s.ofConn, conn)
	if s.perUser[user]--; s.perUser[user] == 0 {
		delete(s.perUser, user)
	}
}

// tell lets a connection without a seat stay until its client was told why, or ends it at once if
// too many wait for that.
func (s *seats) tell(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told >= maxTold {
		cutOff(conn)
		return
	}
	s.told++
	time.AfterFunc(tellTime, func() {
		cutOff(conn)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told--
	})
}

// cutOff ends a connection without a word, which waits for nobody.
func cutOff(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if counted, ok := conn.(*countedConn); ok {
		places.SetAbort(counted.Conn)
	}
	places.Abort(conn)
}

// seatlessKey is the key of the mark in the contexts of the requests of a connection without a seat.
type seatlessKey struct{}

// AddClients is Add for clients that show a certificate: users have a bounded number of
// connections, each and together. A client of a further one is told so, with status 429.
func (s *HTTPServers) AddClients(listener net.Listener, handler http.Handler) {
	server := newHTTPServer(guardRequests(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if without, _ := r.Context().Value(seatlessKey{}).(bool); without {
			refuseSeat(w)
			return
		}
		handler.ServeHTTP(w, r)
	})))
	server.ConnState = s.users.follow
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		user, bounded := userOf(conn)
		if !bounded || s.users.take(conn, user) {
			return ctx
		}
		s.users.tell(conn)
		return context.WithValue(ctx, seatlessKey{}, true)
	}
	s.listeners = append(s.listeners, httpListener{server: server, listener: listener})
}

// userOf returns the user whom the certificate of a connection names; false for an administrator's,
// a host's, and a connection without one.
func userOf(conn net.Conn) (user string, bounded bool) {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return "", false
	}
	certs := secure.ConnectionState().PeerCertificates
	if len(certs) == 0 || identity.ClaimsNode(certs[0]) || slices.Contains(certs[0].Subject.Organization, identity.AdminOrganization) {
		return "", false
	}
	return certs[0].Subject.CommonName, true
}

// refuseSeat answers a client that has too many connections, and closes this one.
func refuseSeat(w http.ResponseWriter) {
	status := apierrors.NewTooManyRequests(fmt.Sprintf("too many connections to this host: a user has at most %d, and all together have %d; close some, or use another host", seatsPerUser, seatsOfAll), int(tellTime/time.Second)).Status()
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", fmt.Sprint(status.Details.RetryAfterSeconds))
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status) // fails only when the client is gone
}
