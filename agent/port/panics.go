package port

import (
	"errors"
	"net"
	"net/http"
	"runtime/debug"
)

// reportPanic logs and counts a panic of the code that serves one connection.
func (p *Port) reportPanic(proto, from string, cause any) {
	p.metrics.panics.WithLabelValues(proto).Inc()
	p.cfg.Logger.Error("the handler of a connection panicked", "from", from, "proto", proto, "panic", cause, "stack", string(debug.Stack()))
}

// guardRequests returns a handler that reports a panic of next and cuts off the request.
// net/http would recover as well, but it counts nothing and writes to its own log.
func guardRequests(l net.Listener, next http.Handler) http.Handler {
	own, ok := l.(*listener)
	if !ok {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); !ok || !errors.Is(err, http.ErrAbortHandler) { // with it, a handler cuts off a request on purpose
				own.port.reportPanic(own.proto, r.RemoteAddr, cause)
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}
