package port

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

// RPCServer serves HTTP/1.1 on a listener of the mesh port: the calls between agents on
// ProtoRPC and ProtoKeyring, or the join protocol on ProtoJoin. A handler may hijack its connection to
// carry a stream.
type RPCServer struct {
	server *http.Server
	done   sync.WaitGroup
	err    error
}

// ServeRPC starts serving handler on a listener that Port.Listen returned.
func ServeRPC(l net.Listener, handler http.Handler, logger *slog.Logger) *RPCServer {
	own, ours := l.(*listener)
	strangers := ours && own.proto == ProtoJoin
	if strangers {
		handler = paceRequests(handler)
	}
	s := &RPCServer{server: &http.Server{
		Handler:           guardRequests(l, handler),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnContext:       withPeer,
	}}
	if strangers {
		s.server.ReadTimeout, s.server.IdleTimeout = strangerTimeout, strangerTimeout
		s.server.MaxHeaderBytes, s.server.ConnContext = strangerHeader, withStranger
	}
	s.done.Go(func() { s.err = s.server.Serve(l) })
	return s
}

// peerKey is the key of the caller's name in the contexts of the requests.
type peerKey struct{}

// withPeer remembers which host is at the other end of a connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, PeerOf(conn))
}

// PeerOfRequest returns the verified name of the host that sent a request to an RPCServer,
// and "" for a caller without a certificate.
func PeerOfRequest(r *http.Request) string { return PeerOfContext(r.Context()) }

// PeerOfContext is PeerOfRequest for the context of a request.
func PeerOfContext(ctx context.Context) string {
	peer, _ := ctx.Value(peerKey{}).(string)
	return peer
}

// Shutdown closes the listener and waits for the running requests; if ctx ends first,
// it aborts them. It does not close hijacked connections.
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
