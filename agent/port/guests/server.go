package guests

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
)

// MaxScreenshotBytes bounds the picture of a display.
const MaxScreenshotBytes = 64 << 20

// streamProtocol is the HTTP upgrade token of streams.
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
	mux.HandleFunc("POST /instances/{namespace}/{name}/reboot", s.act(local.Reboot))
	mux.HandleFunc("POST /instances/{namespace}/{name}/reset", s.act(local.Reset))
	mux.HandleFunc("POST /instances/{namespace}/{name}/freeze", s.freeze)
	mux.HandleFunc("POST /instances/{namespace}/{name}/unfreeze", s.act(local.Unfreeze))
	mux.HandleFunc("GET /instances/{namespace}/{name}/screenshot", s.screenshot)
	mux.HandleFunc("GET /instances/{namespace}/{name}/forward/{protocol}/{port}", s.forward)
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

func (s *server) freeze(w http.ResponseWriter, r *http.Request) {
	limit, err := time.ParseDuration(r.URL.Query().Get("limit"))
	if err != nil || limit < 0 {
		fault.Write(w, fault.InField("limit", "must be a duration that is not negative"))
		return
	}
	s.act(func(ctx context.Context, namespace, name string) error {
		return s.local.Freeze(ctx, namespace, name, limit)
	})(w, r)
}

func (s *server) screenshot(w http.ResponseWriter, r *http.Request) {
	wake := r.URL.Query().Get("wake") == "true"
	picture, err := s.local.Screenshot(r.Context(), r.PathValue("namespace"), r.PathValue("name"), wake)
	if err != nil {
		fault.Write(w, err)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	_, _ = w.Write(picture) // fails only when the client is gone
}

func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	request := StreamRequest{Kind: StreamKind(r.PathValue("stream")), Preserve: r.URL.Query().Get("preserve") == "true"}
	if request.Kind != Console && request.Kind != VNC {
		http.NotFound(w, r)
		return
	}
	s.carry(w, r, request)
}

func (s *server) forward(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
	if err != nil {
		fault.Write(w, fault.InField("port", "must be a number up to 65535"))
		return
	}
	s.carry(w, r, StreamRequest{Kind: Forward, Protocol: r.PathValue("protocol"), Port: uint16(port)})
}

// carry opens a stream and carries it over the connection of the request until either side
// ends.
func (s *server) carry(w http.ResponseWriter, r *http.Request, request StreamRequest) {
	guest, err := s.local.Stream(r.Context(), r.PathValue("namespace"), r.PathValue("name"), request)
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
		s.log.Warn("stream upgrade failed", "kind", request.Kind, "err", err)
		return
	}
	defer peer.Close()
	if err := buffered.Flush(); err != nil {
		return
	}
	var far io.ReadWriteCloser = &bufferedConn{Conn: peer, reader: buffered.Reader}
	if request.Protocol == UDP {
		far = newPacketStream(far)
	}
	joinStreams(guest, far)
}

// joinStreams copies in both directions until either side ends, then closes both, so
// that the user's console ends with the guest and vice versa.
func joinStreams(a, b io.ReadWriteCloser) {
	pump := func(to, from io.ReadWriteCloser) {
		defer b.Close()
		defer a.Close()
		// A buffer of our own, and no ReadFrom of a connection: a packet is one Read and one
		// Write. Either side may end at any time.
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, maxPacket))
	}
	RunTogether(func() { pump(a, b) }, func() { pump(b, a) })
}
