package port

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// AddStrangers is Add for clients that show no certificate: they get few requests at a
// time, and few in a second. On another listener than one of the mesh port, their
// connections are bounded too. known, unless it is nil, says who makes a request, if it shows that by
// a token: such a request may take its time, as one with a certificate, and from then on the
// connection counts as one of that client, who has as many as one with a certificate. known is
// asked about every request, before that waits for its turn.
func (s *HTTPServers) AddStrangers(l net.Listener, handler http.Handler, known func(*http.Request) (user string, ok bool)) {
	if _, ours := l.(*listener); !ours {
		l = newBoundedListener(l, openConnections())
	}
	server := newHTTPServer(guardRequests(l, welcomeKnown(known, &s.users, handler, paceRequests(handler))))
	server.ConnState = s.users.follow
	server.ReadTimeout, server.WriteTimeout = strangerTimeout, strangerTimeout
	server.MaxHeaderBytes = strangerHeader
	server.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams: strangerStreams, MaxReadFrameSize: strangerBody,
		MaxReceiveBufferPerStream: strangerBody, MaxReceiveBufferPerConnection: strangerStreams * strangerBody,
	}
	server.ConnContext = withStranger
	s.listeners = append(s.listeners, httpListener{server: server, listener: l})
}

// strangerKey is the key of the stranger in the contexts of the requests of a connection.
type strangerKey struct{}

// stranger is who makes the requests of a connection without a certificate.
type stranger struct {
	conn net.Conn
	pace *rate.Limiter
	// known says that a request has shown who makes it.
	known atomic.Bool
}

// withStranger gives a connection a pace.
func withStranger(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, strangerKey{}, &stranger{conn: conn, pace: rate.NewLimiter(strangerRate, strangerBurst)})
}

func strangerOf(r *http.Request) *stranger {
	s, _ := r.Context().Value(strangerKey{}).(*stranger)
	return s
}

// becomeKnown gives the connection a seat among those of users, and gives back its place among those
// of strangers, so that no flood of strangers takes it away. It reports whether there was a seat.
func (s *stranger) becomeKnown(user string, users *seats) bool {
	if s.known.Load() {
		return true
	}
	if !users.take(s.conn, user) {
		return false
	}
	if s.known.Swap(true) {
		return true
	}
	if secure, ok := s.conn.(*tls.Conn); ok {
		if counted, ok := secure.NetConn().(*countedConn); ok && counted.leave != nil {
			counted.leave()
		}
	}
	return true
}

// paceRequests makes the requests of a connection wait until they are due.
func paceRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := strangerOf(r); s != nil && s.pace.Wait(r.Context()) != nil {
			return // the client is gone
		}
		next.ServeHTTP(w, r)
	})
}

// welcomeKnown passes requests that show who makes them to clients without a bound of their time,
// and others at the pace of strangers. On a connection that has not shown yet who uses it, each
// request waits for its turn before it is asked about: to ask costs something. A connection without
// a place among strangers ends when it makes a request of a stranger; one for which users has no
// seat is told so, and ends.
func welcomeKnown(known func(*http.Request) (user string, ok bool), users *seats, clients, strangers http.Handler) http.Handler {
	if known == nil {
		return strangers
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := strangerOf(r)
		was := s == nil || s.known.Load()
		if !was && s.pace.Wait(r.Context()) != nil {
			return // the client is gone
		}
		user, shown := known(r)
		switch {
		case shown && s != nil && !s.becomeKnown(user, users):
			refuseSeat(w)
		case shown:
			control := http.NewResponseController(w)
			_ = control.SetReadDeadline(time.Time{}) // fails only when the client is gone
			_ = control.SetWriteDeadline(time.Time{})
			clients.ServeHTTP(w, r)
		case was:
			w.Header().Set("Connection", "close")
			strangers.ServeHTTP(w, r)
		default: // it has had its turn
			clients.ServeHTTP(w, r)
		}
	})
}
