package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// DefaultMaxSkew is the default of ServerConfig.MaxSkew.
const DefaultMaxSkew = 30 * time.Second

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Signer admits hosts and signs.
	Signer *identity.Signer
	// Host is the name of this host.
	Host string
	// Version is the version of this host's software; the message to a host that is too
	// old names it.
	Version string
	// MinFeatureLevel, if set, returns the lowest feature level that the mesh admits.
	// It must not block.
	MinFeatureLevel func() uint32
	// MaxSkew is how much the clock of a joining host may differ from this host's.
	MaxSkew time.Duration
	// Timeout bounds one request, from the moment its body has been read.
	Timeout time.Duration
	// BodyTimeout bounds how long a caller may take to send the body of a request.
	BodyTimeout time.Duration
	// MaxRequests bounds the requests that run at the same time; the server answers
	// further ones with "unavailable". A request counts only once its body has been
	// read, so a slow caller blocks nobody.
	MaxRequests int
	// Logger receives a line for every host that is admitted or refused.
	Logger *slog.Logger
	// Registerer receives the metrics; nil registers none.
	Registerer prometheus.Registerer
}

// DefaultServerConfig returns the configuration of a real host, without Signer, Host
// and Version.
func DefaultServerConfig() ServerConfig {
	return ServerConfig{
		MaxSkew: DefaultMaxSkew, Timeout: 20 * time.Second, BodyTimeout: 10 * time.Second, MaxRequests: 16,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// Validate says what is missing or out of range.
func (c ServerConfig) Validate() error {
	switch {
	case c.Signer == nil:
		return errors.New("join server: Signer is nil")
	case c.Host == "":
		return errors.New("join server: Host is empty")
	case c.MaxSkew <= 0:
		return errors.New("join server: MaxSkew must be positive")
	case c.Timeout <= 0:
		return errors.New("join server: Timeout must be positive")
	case c.BodyTimeout <= 0:
		return errors.New("join server: BodyTimeout must be positive")
	case c.MaxRequests < 1:
		return errors.New("join server: MaxRequests must be at least 1")
	case c.Logger == nil:
		return errors.New("join server: Logger is nil")
	}
	return nil
}

// Server answers the join protocol. It is an http.Handler for a listener of
// port.ProtoJoin and owns no goroutine.
type Server struct {
	cfg      ServerConfig
	mux      *http.ServeMux
	slots    chan struct{}
	requests *prometheus.CounterVec
}

var _ http.Handler = (*Server)(nil)

// NewServer returns a Server.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, mux: http.NewServeMux(), slots: make(chan struct{}, cfg.MaxRequests),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_join_requests_total",
			Help: "Requests of the join protocol, by operation and result.",
		}, []string{"operation", "result"}),
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(s.requests); err != nil {
			return nil, fmt.Errorf("register join metrics: %w", err)
		}
	}
	s.mux.HandleFunc("POST "+pathJoin, s.boundedHandler("join", s.serveJoin))
	s.mux.HandleFunc("POST "+pathRenew, s.boundedHandler("renew", s.serveRenew))
	s.mux.HandleFunc("GET "+pathClock, s.serveClock)
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close unregisters the metrics.
func (s *Server) Close() {
	if s.cfg.Registerer != nil {
		s.cfg.Registerer.Unregister(s.requests)
	}
}

// boundedHandler runs an operation within the limits on time and number of requests,
// and writes its answer.
func (s *Server) boundedHandler(operation string, do func(ctx context.Context, body []byte, from string) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := s.runOperation(w, r, do)
		if err == nil {
			s.requests.WithLabelValues(operation, "ok").Inc()
			s.writeAnswer(w, http.StatusOK, answer)
			return
		}
		told := publicFault(err)
		s.requests.WithLabelValues(operation, string(told.Code)).Inc()
		s.cfg.Logger.Warn(operation+" refused", "from", r.RemoteAddr, "code", told.Code, "err", err)
		fault.Write(w, told)
	}
}

// runOperation reads the body, takes a slot and runs an operation.
func (s *Server) runOperation(w http.ResponseWriter, r *http.Request, do func(context.Context, []byte, string) (any, error)) (any, error) {
	// Callers are not authenticated, so one that sends or reads slowly is cut off.
	// Ignore the error: a recorder in a test has no deadlines.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	_ = conn.SetWriteDeadline(time.Now().Add(s.cfg.BodyTimeout + s.cfg.Timeout))
	body, err := readBody(r.Body, maxRequest)
	if err != nil {
		return nil, badFieldFault("body", err)
	}
	end := time.Now().Add(s.cfg.Timeout)
	_ = conn.SetReadDeadline(end)
	_ = conn.SetWriteDeadline(end.Add(s.cfg.Timeout))
	ctx, cancel := context.WithDeadline(r.Context(), end)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return do(ctx, body, r.RemoteAddr)
	default:
		w.Header().Set("Retry-After", "1")
		return nil, ErrUnavailable
	}
}

func (s *Server) writeAnswer(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.cfg.Logger.Debug("answer not sent", "err", err)
	}
}

func (s *Server) serveJoin(ctx context.Context, body []byte, from string) (any, error) {
	req, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if skew := req.Clock.Sub(now).Abs(); skew > s.cfg.MaxSkew {
		return nil, clockSkewFault(req.Clock, now, s.cfg.MaxSkew)
	}
	if s.cfg.MinFeatureLevel != nil {
		if want := s.cfg.MinFeatureLevel(); req.FeatureLevel < want {
			return nil, tooOldFault(req, want, s.cfg.Version)
		}
	}
	key, err := identity.ParseCSR(req.CSR)
	if err != nil {
		return nil, badFieldFault("csr", err)
	}
	admission, err := s.cfg.Signer.Admit(ctx, identity.Candidate{
		TokenID: req.TokenID, Secret: req.Secret, Key: key,
		Host: identity.HostRecord{
			Name: req.Host, MeshAddress: req.MeshAddress, GossipAddress: req.GossipAddress,
			SANs: req.SANs, Version: req.Version, FeatureLevel: req.FeatureLevel,
		},
	})
	if err != nil {
		return nil, err
	}
	answer := Answer{
		Issued: admission.Issued, MeshID: admission.MeshID, CAKey: admission.CAKey, GossipKeys: admission.GossipKeys,
	}
	for _, m := range admission.Members {
		answer.Members = append(answer.Members, identity.Seed{
			Host: m.Name, MeshAddress: m.MeshAddress, GossipAddress: m.GossipAddress,
		})
	}
	s.cfg.Logger.Info("host admitted", "host", req.Host, "from", from, "token", req.TokenID)
	return answer, nil
}

func (s *Server) serveRenew(ctx context.Context, body []byte, from string) (any, error) {
	var proof identity.RenewalProof
	if err := unmarshalJSON(body, &proof); err != nil {
		return nil, badFieldFault("body", err)
	}
	host, issued, err := s.cfg.Signer.RenewByProof(ctx, proof)
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("certificate signed", "host", host, "from", from)
	return issued, nil
}

func (s *Server) serveClock(w http.ResponseWriter, _ *http.Request) {
	s.writeAnswer(w, http.StatusOK, clockAnswer{Host: s.cfg.Host, Clock: time.Now().UTC()})
}
