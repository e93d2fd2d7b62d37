package meshport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

type peerKey struct{}

// PeerHost returns the verified name of the host that sent a request, from the context
// of a request that an RPCServer serves.
func PeerHost(ctx context.Context) (string, bool) {
	host, ok := ctx.Value(peerKey{}).(string)
	return host, ok && host != ""
}

// WithPeerHost returns a context as an RPCServer makes it; for tests of handlers.
func WithPeerHost(ctx context.Context, host string) context.Context {
	return context.WithValue(ctx, peerKey{}, host)
}

// RPCServer serves HTTP/1.1 on a listener of the mesh port: the calls between agents on
// ProtoRPC, the join protocol on ProtoJoin. Handlers find the calling host with
// PeerHost. A handler may hijack its connection for a stream.
type RPCServer struct {
	server *http.Server
	done   sync.WaitGroup
	err    error
}

// ServeRPC starts to serve handler on a listener that Port.Listen returned.
func ServeRPC(l net.Listener, handler http.Handler, logger *slog.Logger) *RPCServer {
	s := &RPCServer{server: &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if conn, ok := c.(*Conn); ok {
				return WithPeerHost(ctx, conn.Peer())
			}
			return ctx
		},
	}}
	s.done.Go(func() { s.err = s.server.Serve(l) })
	return s
}

// Shutdown closes the listener and waits for the requests that run; when ctx ends
// first it cuts them off. Hijacked connections are not its own.
func (s *RPCServer) Shutdown(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop RPC server: %w", err), s.server.Close())
	}
	s.done.Wait()
	if !errors.Is(s.err, http.ErrServerClosed) && !errors.Is(s.err, net.ErrClosed) {
		err = errors.Join(err, s.err)
	}
	return err
}

// Resolver returns the mesh address of a host.
type Resolver func(ctx context.Context, host string) (addr string, err error)

// RPCClient returns an HTTP client for calls to agents. The host of a URL is the name of
// a mesh host: http://host2/path. Who answers is verified to be that host. The scheme
// is http because the mesh port does the TLS. Call CloseIdleConnections at the end.
func (p *Port) RPCClient(resolve Resolver) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, fmt.Errorf("mesh host %q: %w", addr, err)
				}
				at, err := resolve(ctx, host)
				if err != nil {
					return nil, fmt.Errorf("find mesh host %s: %w", host, err)
				}
				conn, err := p.DialHost(ctx, ProtoRPC, host, at)
				if err != nil {
					return nil, err // not a typed nil
				}
				return conn, nil
			},
			MaxIdleConnsPerHost:   4,
			IdleConnTimeout:       90 * time.Second,
			DisableCompression:    true,
			ExpectContinueTimeout: time.Second,
		},
		// A redirect would send a call to a host that nobody named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
