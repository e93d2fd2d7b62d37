package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/port/admin"
)

// A host whose copy of the mesh's state is empty must do nothing: every guest on
// it would look as if nobody wanted it. It is new, or its copy was lost or thrown
// away, and in either case others have the state. So it asks them until they have
// given it a copy, and only says meanwhile, on its socket and to monitoring, what
// it waits for. Guests go on.

// joinPause is the least time between two rounds of asking.
const joinPause = 5 * time.Second

// awaitCopy asks the other hosts to take this one in until they have. It ends
// without that only with ctx, or when the replica fails.
func (a *Agent) awaitCopy(ctx context.Context) error {
	w := &waitingRoom{agent: a, pause: joinPause}
	defer w.close()
	for {
		err := a.askForCopy(ctx)
		if err == nil {
			return nil
		}
		if failed := a.store.Err(); failed != nil {
			return withRemedy(failed)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if gone := a.askWhetherExpelled(ctx); gone != nil {
			return gone
		}
		if err := w.waitFor(ctx, err); err != nil {
			return err
		}
		if len(a.otherLive()) == 0 {
			if err := a.joinGossip(ctx); err != nil {
				return err
			}
		}
	}
}

func (a *Agent) askForCopy(ctx context.Context) error {
	addresses := a.meshAddresses()
	if len(addresses) == 0 {
		return errNoOther
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return a.store.Join(ctx, addresses)
}

var errNoOther = errors.New("no other host is known; if none has the state, restore a backup with 'virtmesh agent recover --backup FILE'")

// otherLive names the other members that gossip reaches.
func (a *Agent) otherLive() []string {
	names := liveMembers{a.gossip}.Members()
	return slices.DeleteFunc(names, func(name string) bool { return name == a.config.Name })
}

// waitingRoom tells operators and monitoring why the agent does nothing yet.
type waitingRoom struct {
	agent *Agent
	pause time.Duration

	mu  sync.Mutex
	why error

	stop context.CancelFunc // nil before it was opened
	done sync.WaitGroup
}

// waitFor says why the agent still waits, and returns after a pause.
func (w *waitingRoom) waitFor(ctx context.Context, why error) error {
	w.mu.Lock()
	w.why = why
	w.mu.Unlock()
	w.agent.log.Warn("this host has no copy of the mesh's state and waits for another host to give it one; running guests go on", "err", why)
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

// reason is why the agent waits, in a sentence.
func (w *waitingRoom) reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%s has no copy of the mesh's state and waits for another host to give it one: running VMs go on, nothing else is done here (%v)", w.agent.config.Name, w.why)
}

// open serves the room where the agent will serve later.
func (w *waitingRoom) open(ctx context.Context) error {
	ctx, w.stop = context.WithCancel(ctx)
	if w.agent.config.MetricsListen != "" {
		listener, err := net.Listen("tcp", w.agent.config.MetricsListen)
		if err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		w.serve(ctx, listener, w.healthHandler())
	}
	socket, err := openSocket(w.agent.config.Socket())
	if err != nil {
		return err
	}
	w.serve(ctx, socket, w.socketHandler())
	w.done.Go(func() {
		if err := notifyAlive(ctx, w.agent.healthy); err != nil {
			w.agent.log.Warn("the service manager cannot be told", "err", err)
		}
	})
	return nil
}

func (w *waitingRoom) serve(ctx context.Context, listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(w.agent.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	w.done.Go(func() {
		defer stop()
		if err := server.Serve(listener); err != nil && ctx.Err() == nil {
			w.agent.log.Warn("status cannot be served", "at", listener.Addr(), "err", err)
		}
	})
}

// close makes room for the agent's own servers.
func (w *waitingRoom) close() {
	if w.stop != nil {
		w.stop()
		w.done.Wait()
	}
}

// socketHandler answers root on this host.
func (w *waitingRoom) socketHandler() http.Handler {
	mesh := admin.NewHandler(waitingMesh{w}, func(*http.Request) bool { return true })
	return withMesh(mesh, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusServiceUnavailable)
		status := apierrors.NewServiceUnavailable(w.reason()).Status()
		status.Kind, status.APIVersion = "Status", "v1"
		_ = json.NewEncoder(rw).Encode(status) // fails only when the client is gone
	}))
}

// healthHandler answers monitoring: the agent lives and is not ready.
func (w *waitingRoom) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.agent.metrics, promhttp.HandlerOpts{}))
	alive := func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "ok") }
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "[-]store failed: "+w.reason(), http.StatusServiceUnavailable)
	})
	return mux
}

// waitingMesh is the mesh's API on a host that waits: it has a status, and
// nothing else.
type waitingMesh struct{ room *waitingRoom }

var _ admin.Mesh = waitingMesh{}

// Status implements meshapi.Mesh.
func (m waitingMesh) Status(ctx context.Context) (*admin.Status, error) {
	status, err := m.room.agent.Status(ctx)
	if err != nil {
		return nil, err
	}
	status.Warnings = append([]string{m.room.reason()}, status.Warnings...)
	return status, nil
}

func (m waitingMesh) refuse() error { return errors.New(m.room.reason()) }

// CreateToken implements meshapi.Mesh.
func (m waitingMesh) CreateToken(context.Context, time.Duration) (*admin.Token, error) {
	return nil, m.refuse()
}

// ListTokens implements meshapi.Mesh.
func (m waitingMesh) ListTokens(context.Context) ([]admin.Token, error) { return nil, m.refuse() }

// RevokeToken implements meshapi.Mesh.
func (m waitingMesh) RevokeToken(context.Context, string) error { return m.refuse() }

// IssueCredentials implements meshapi.Mesh.
func (m waitingMesh) IssueCredentials(context.Context, []byte) (*admin.Credentials, error) {
	return nil, m.refuse()
}

// Leave implements meshapi.Mesh.
func (m waitingMesh) Leave(context.Context) error { return m.refuse() }

// RemoveHost implements meshapi.Mesh.
func (m waitingMesh) RemoveHost(context.Context, string) error { return m.refuse() }
