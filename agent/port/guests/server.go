package guests

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
)

// streamProtocol is the HTTP upgrade token of consoles and displays.
const streamProtocol = "virtmesh-stream"

// maxRequestBytes bounds the body of a peer's request.
const maxRequestBytes = 1 << 20

// NewHandler serves this host's own instances and offers to other hosts.
func NewHandler(local Instances, offerer Offerer, log *slog.Logger) http.Handler {
	s := &server{local: local, offerer: offerer, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /offer", s.offer)
	mux.HandleFunc("GET /instances/{namespace}/{name}/{stream}", s.stream)
	mux.HandleFunc("POST /instances/{namespace}/{name}/pause", s.act(local.Pause))
	mux.HandleFunc("POST /instances/{namespace}/{name}/unpause", s.act(local.Unpause))
	mux.HandleFunc("GET /instances/{namespace}/{name}/guest/osinfo", answer(local.GuestOSInfo))
	mux.HandleFunc("GET /instances/{namespace}/{name}/guest/users", answer(local.Users))
	mux.HandleFunc("GET /instances/{namespace}/{name}/guest/filesystems", answer(local.Filesystems))
	return mux
}

type server struct {
	local   Instances
	offerer Offerer
	log     *slog.Logger
}

func (s *server) offer(w http.ResponseWriter, r *http.Request) {
	var request claims.OfferRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes)).Decode(&request); err != nil {
		fault.Write(w, fault.New(fault.Invalid, "read offer request: %w", err))
		return
	}
	offer, err := s.offerer.Offer(r.Context(), request)
	if err != nil {
		fault.Write(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(offer) // fails only when the client is gone
}

func (s *server) act(do func(ctx context.Context, namespace, name string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := do(r.Context(), r.PathValue("namespace"), r.PathValue("name")); err != nil {
			fault.Write(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func answer[T any](ask func(ctx context.Context, namespace, name string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := ask(r.Context(), r.PathValue("namespace"), r.PathValue("name"))
		if err != nil {
			fault.Write(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value) // fails only when the client is gone
	}
}

func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	kind := StreamKind(r.PathValue("stream"))
	if kind != Console && kind != VNC {
		http.NotFound(w, r)
		return
	}
	guest, err := s.local.Stream(r.Context(), r.PathValue("namespace"), r.PathValue("name"), kind)
	if err != nil {
		fault.Write(w, err)
		return
	}
	defer guest.Close()
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		fault.Write(w, errors.New("the connection cannot be hijacked to carry a stream"))
		return
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", streamProtocol)
	w.WriteHeader(http.StatusSwitchingProtocols)
	peer, buffered, err := hijacker.Hijack()
	if err != nil {
		s.log.Warn("stream upgrade failed", "kind", kind, "err", err)
		return
	}
	defer peer.Close()
	if err := buffered.Flush(); err != nil {
		return
	}
	joinStreams(guest, &bufferedConn{Conn: peer, reader: buffered.Reader})
}

// joinStreams copies in both directions until either side ends, then closes both, so
// that the user's console ends with the guest and vice versa.
func joinStreams(a, b io.ReadWriteCloser) {
	pump := func(to, from io.ReadWriteCloser) {
		defer b.Close()
		defer a.Close()
		_, _ = io.Copy(to, from) // either side may end at any time
	}
	RunTogether(func() { pump(a, b) }, func() { pump(b, a) })
}
