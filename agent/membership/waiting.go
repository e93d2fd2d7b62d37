package membership

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"virtmesh/agent/fault"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
)

// waitingRoom serves status and health while the agent has no usable copy of the mesh's
// state, so that operators and monitoring can see why the agent does nothing yet.
type waitingRoom struct {
	member *Member
	pause  time.Duration
	// lack says, after the host's name, what it lacks and what it waits for.
	lack string

	mu sync.Mutex
	// meanwhile says what becomes of the guests.
	meanwhile string
	why       error

	stop context.CancelFunc // nil before open
	done sync.WaitGroup
}

func (m *Member) newWaitingRoom(lack string) *waitingRoom {
	return &waitingRoom{member: m, pause: JoinPause, lack: lack, meanwhile: "running VMs continue, and this host does nothing else"}
}

// waitFor publishes why the agent still waits, and returns after a pause.
func (w *waitingRoom) waitFor(ctx context.Context, why error) error {
	w.setReason(why)
	w.member.log.Warn("this host has no copy of the mesh's state and waits for another host to send one; running guests continue", "err", why)
	if w.stop == nil {
		if err := w.open(ctx); err != nil {
			return err
		}
	}
	timer := time.NewTimer(w.pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (w *waitingRoom) setReason(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = why
}

// say publishes what becomes of the guests and why.
func (w *waitingRoom) say(meanwhile string, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.meanwhile, w.why = meanwhile, why
}

// reason returns, as a sentence, why the agent waits.
func (w *waitingRoom) reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%s %s: %s (%v)", w.member.config.Name, w.lack, w.meanwhile, w.why)
}

// open starts the servers on the addresses that the agent's own servers will use later.
func (w *waitingRoom) open(ctx context.Context) error {
	if w.member.gossip != nil {
		// The loops of the agent publish other facts when they run.
		facts := w.member.initialFacts()
		facts.Idle = true
		if err := w.member.peers.SetFacts(facts); err != nil {
			return fmt.Errorf("tell the other hosts that this one waits: %w", err)
		}
	}
	ctx, w.stop = context.WithCancel(ctx)
	if w.member.config.MetricsListen != "" {
		listener, err := net.Listen("tcp", w.member.config.MetricsListen)
		if err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		w.serve(ctx, listener, w.healthHandler())
	}
	socket, err := admin.OpenSocket(w.member.config.Socket())
	if err != nil {
		return err
	}
	w.serve(ctx, socket, w.socketHandler())
	w.done.Go(func() {
		if err := w.member.options.NotifyAlive(ctx, w.member.Err); err != nil {
			w.member.log.Warn("the service manager cannot be notified", "err", err)
		}
	})
	return nil
}

func (w *waitingRoom) serve(ctx context.Context, listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: port.HeaderTimeout, ErrorLog: slog.NewLogLogger(w.member.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	w.done.Go(func() {
		defer stop()
		if err := server.Serve(listener); err != nil && ctx.Err() == nil {
			w.member.log.Warn("status cannot be served", "at", listener.Addr(), "err", err)
		}
	})
}

// close stops the servers, so that the agent's own servers can use their addresses.
func (w *waitingRoom) close() {
	if w.stop != nil {
		w.stop()
		w.done.Wait()
	}
}

// socketHandler serves the administration socket, which only root may open.
func (w *waitingRoom) socketHandler() http.Handler {
	mesh := port.MeetCallers(w.member.Speaker, w.member.log, admin.NewHandler(waitingMesh{w}, admin.AsRoot))
	return admin.Beside(mesh, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fault.Write(rw, fault.New(fault.Unavailable, "%s", w.reason()))
	}))
}

// healthHandler serves health checks: the agent is alive and not ready.
func (w *waitingRoom) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.member.options.Metrics, promhttp.HandlerOpts{}))
	alive := func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "ok") }
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "[-]store failed: "+w.reason(), http.StatusServiceUnavailable)
	})
	return mux
}

// waitingMesh is the administration API of a host that waits. Only Status works; every
// other method fails with the reason for the wait.
type waitingMesh struct{ room *waitingRoom }

var _ admin.Mesh = waitingMesh{}

// Status implements admin.Mesh.
func (m waitingMesh) Status(ctx context.Context) (*admin.Status, error) {
	status, err := m.room.member.Status(ctx)
	if err != nil {
		return nil, err
	}
	status.Warnings = append([]string{m.room.reason()}, status.Warnings...)
	return status, nil
}

func (m waitingMesh) refuse() error { return fault.New(fault.Unavailable, "%s", m.room.reason()) }

// CreateToken implements admin.Mesh.
func (m waitingMesh) CreateToken(context.Context, time.Duration) (*admin.Token, error) {
	return nil, m.refuse()
}

// ListTokens implements admin.Mesh.
func (m waitingMesh) ListTokens(context.Context) ([]admin.Token, error) { return nil, m.refuse() }

// RevokeToken implements admin.Mesh.
func (m waitingMesh) RevokeToken(context.Context, string) error { return m.refuse() }

// IssueCredentials implements admin.Mesh.
func (m waitingMesh) IssueCredentials(context.Context, admin.CredentialsRequest, string) (*admin.Credentials, error) {
	return nil, m.refuse()
}

// ListCertificates implements admin.Mesh.
func (m waitingMesh) ListCertificates(context.Context) (*admin.Certificates, error) {
	return nil, m.refuse()
}

// RevokeCertificates implements admin.Mesh.
func (m waitingMesh) RevokeCertificates(context.Context, string, string) ([]admin.Certificate, error) {
	return nil, m.refuse()
}

// RefuseUnlistedCertificates implements admin.Mesh.
func (m waitingMesh) RefuseUnlistedCertificates(context.Context, string) error { return m.refuse() }

// AddUser implements admin.Mesh.
func (m waitingMesh) AddUser(context.Context, admin.UserRequest, string) (*admin.UserChange, error) {
	return nil, m.refuse()
}

// ListUsers implements admin.Mesh.
func (m waitingMesh) ListUsers(context.Context) ([]admin.User, error) { return nil, m.refuse() }

// RemoveUser implements admin.Mesh.
func (m waitingMesh) RemoveUser(context.Context, string, string) ([]admin.Certificate, error) {
	return nil, m.refuse()
}

// Leave implements admin.Mesh.
func (m waitingMesh) Leave(context.Context) error { return m.refuse() }

// RaiseLevel implements admin.Mesh.
func (m waitingMesh) RaiseLevel(context.Context, uint32) error { return m.refuse() }

// RemoveHost implements admin.Mesh.
func (m waitingMesh) RemoveHost(context.Context, admin.Removal) (*admin.Removed, error) {
	return nil, m.refuse()
}

// GossipKeys implements admin.Mesh.
func (m waitingMesh) GossipKeys(context.Context) (*admin.GossipKeys, error) { return nil, m.refuse() }

// SecretKeys implements admin.Mesh.
func (m waitingMesh) SecretKeys(context.Context) (*admin.SecretKeys, error) { return nil, m.refuse() }

// RotateSecretKey implements admin.Mesh.
func (m waitingMesh) RotateSecretKey(context.Context) error { return m.refuse() }

// RotateGossipKey implements admin.Mesh.
func (m waitingMesh) RotateGossipKey(context.Context, string) error { return m.refuse() }

// CA implements admin.Mesh.
func (m waitingMesh) CA(context.Context) (*admin.CAStatus, error) { return nil, m.refuse() }

// RotateCA implements admin.Mesh.
func (m waitingMesh) RotateCA(context.Context, string, time.Duration) error { return m.refuse() }
