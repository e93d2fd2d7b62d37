package port_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// streamLayer is the contract of raftstore.
var _ interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
} = (*port.StreamLayer)(nil)

func TestStreamLayer(t *testing.T) {
	m := identitytest.NewMesh(t)
	server, client := newPort(t, m.First), newPort(t, m.Host(t, "host2", 0))
	in, err := server.StreamLayer(port.ProtoRaft)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, in)
	out, err := client.StreamLayer(port.ProtoRaft)
	if err != nil {
		t.Fatal(err)
	}
	for _, timeout := range []time.Duration{0, 5 * time.Second} {
		c, err := out.Dial(in.Addr().String(), timeout)
		if err != nil {
			t.Fatal(err)
		}
		if err := ping(t, c); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := out.Dial(silent.Addr().String(), 50*time.Millisecond)
	if c != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial a silent server: %v, %v", c, err)
	}
}

// TestRotation is the life of two hosts whose certificates live for four seconds:
// one connection outlives several certificates, and new connections use the new ones.
func TestRotation(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	const life = 4 * time.Second
	ids := []*identity.Identity{m.Host(t, "host2", life), m.Host(t, "host3", life)}
	for _, id := range ids {
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity = id
		cfg.Issuers = []identity.Issuer{identity.IssuerFunc(func(_ context.Context, csr []byte) (identity.Issued, error) {
			pub, err := identity.ParseCSR(csr)
			if err != nil {
				return identity.Issued{}, err
			}
			chain, err := m.CA.IssueNode(pub, id.Node(), nil, life)
			return identity.Issued{Chain: chain, CABundle: m.CA.CertificatePEM()}, err
		})}
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Shutdown)
	}
	server, client := newPort(t, ids[0]), newPort(t, ids[1])
	echo(t, listen(t, server, port.ProtoRaft))
	old, err := client.Dial(t.Context(), port.ProtoRaft, server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	first := old.ConnectionState().PeerCertificates[0]
	waitFor(t, func() bool {
		if err := ping(t, old); err != nil {
			t.Fatalf("the old connection broke: %v", err)
		}
		return time.Now().After(first.NotAfter.Add(time.Second))
	})
	// On a busy machine a renewal can come too late for one attempt, but not for ever.
	var renewed *port.Conn
	waitFor(t, func() bool {
		renewed, err = client.Dial(t.Context(), port.ProtoRaft, server.Addr().String())
		return err == nil
	})
	defer renewed.Close()
	if renewed.ConnectionState().PeerCertificates[0].Equal(first) {
		t.Error("a new connection got the old certificate")
	}
	for _, c := range []net.Conn{old, renewed} {
		if err := ping(t, c); err != nil {
			t.Error(err)
		}
	}
}

func TestRPC(t *testing.T) {
	m := identitytest.NewMesh(t)
	server, client := newPort(t, m.First), newPort(t, m.Host(t, "host2", 0))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /proto", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })
	mux.HandleFunc("POST /stream", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		_, _ = io.Copy(conn, rw)
	})
	rpc := port.ServeRPC(listen(t, server, port.ProtoRPC), mux, slog.New(slog.DiscardHandler))
	http1 := rpcClient(client, server.Addr().String())
	defer http1.CloseIdleConnections()

	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			resp, err := http1.Get("http://host1/proto")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); string(body) != "HTTP/1.1" || err != nil {
				t.Errorf("answer %q, %v", body, err)
			}
		})
	}
	wg.Wait()

	var peer *port.PeerError
	if _, err := http1.Get("http://host7/proto"); !errors.As(err, &peer) {
		t.Errorf("another host answers: %v", err)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://host1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := http1.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	stream := resp.Body.(io.ReadWriteCloser)
	fmt.Fprintln(stream, "hello")
	if line, err := bufio.NewReader(stream).ReadString('\n'); line != "hello\n" || err != nil {
		t.Errorf("stream %q, %v", line, err)
	}
	stream.Close()

	if err := rpc.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	http1.CloseIdleConnections()
	if _, err := http1.Get("http://host1/proto"); err == nil {
		t.Error("answered after Shutdown")
	}
}

func TestRPCShutdownCutsOff(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	started := make(chan struct{})
	rpc := port.ServeRPC(listen(t, p, port.ProtoRPC), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
	}), slog.New(slog.DiscardHandler))
	client := rpcClient(p, p.Addr().String())
	defer client.CloseIdleConnections()
	done := make(chan error)
	go func() {
		_, err := client.Get("http://host1/")
		done <- err
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := rpc.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-done; err == nil {
		t.Error("the request was not cut off")
	}
}
