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

// DefaultMaxSkew is how far the clock of a joining host may be off.
const DefaultMaxSkew = 30 * time.Second

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Signer admits hosts and signs.
	Signer *identity.Signer
	// Host is the name of this host.
	Host string
	// Version is what this host runs, for the message to a host that is too old.
	Version string
	// MinFeatureLevel, if set, returns the lowest feature level that the mesh admits.
	// It must not block.
	MinFeatureLevel func() uint32
	// MaxSkew is how far the clock of a joining host may be off.
	MaxSkew time.Duration
	// Timeout bounds one request, from its last byte on.
	Timeout time.Duration
	// BodyTimeout bounds how long a caller may take to send the body of a request.
	BodyTimeout time.Duration
	// MaxRequests bounds the requests that run at once; more are told to come again. One
	// runs once its body is here, so a slow caller is in nobody's way.
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
// meshport.ProtoJoin and owns no goroutine.
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
	s.mux.HandleFunc("POST "+pathJoin, s.bounded("join", s.join))
	s.mux.HandleFunc("POST "+pathRenew, s.bounded("renew", s.renew))
	s.mux.HandleFunc("GET "+pathClock, s.clock)
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close takes the metrics out of the registerer.
func (s *Server) Close() {
	if s.cfg.Registerer != nil {
		s.cfg.Registerer.Unregister(s.requests)
	}
}

// bounded runs an operation within the limits on time and number, and writes its answer.
func (s *Server) bounded(operation string, do func(ctx context.Context, body []byte, from string) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := s.run(w, r, do)
		if err == nil {
			s.requests.WithLabelValues(operation, "ok").Inc()
			s.write(w, http.StatusOK, answer)
			return
		}
		told := forStrangers(err)
		s.requests.WithLabelValues(operation, string(told.Code)).Inc()
		s.cfg.Logger.Warn(operation+" refused", "from", r.RemoteAddr, "code", told.Code, "err", err)
		fault.Write(w, told)
	}
}

// run reads the body, takes a slot and runs an operation.
func (s *Server) run(w http.ResponseWriter, r *http.Request, do func(context.Context, []byte, string) (any, error)) (any, error) {
	// Callers are strangers: one that sends or reads slowly is cut off. A recorder in a
	// test has no deadline to set.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	_ = conn.SetWriteDeadline(time.Now().Add(s.cfg.BodyTimeout + s.cfg.Timeout))
	body, err := readBody(r.Body, maxRequest)
	if err != nil {
		return nil, badField("body", err)
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

func (s *Server) write(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.cfg.Logger.Debug("answer not sent", "err", err)
	}
}

func (s *Server) join(ctx context.Context, body []byte, from string) (any, error) {
	req, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if skew := req.Clock.Sub(now).Abs(); skew > s.cfg.MaxSkew {
		return nil, clockSkew(req.Clock, now, s.cfg.MaxSkew)
	}
	if s.cfg.MinFeatureLevel != nil {
		if want := s.cfg.MinFeatureLevel(); req.FeatureLevel < want {
			return nil, tooOld(req, want, s.cfg.Version)
		}
	}
	key, err := identity.ParseCSR(req.CSR)
	if err != nil {
		return nil, badField("csr", err)
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

func (s *Server) renew(ctx context.Context, body []byte, from string) (any, error) {
	var proof identity.RenewalProof
	if err := unmarshal(body, &proof); err != nil {
		return nil, badField("body", err)
	}
	host, issued, err := s.cfg.Signer.RenewByProof(ctx, proof)
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("certificate signed", "host", host, "from", from)
	return issued, nil
}

func (s *Server) clock(w http.ResponseWriter, _ *http.Request) {
	s.write(w, http.StatusOK, clockAnswer{Host: s.cfg.Host, Clock: time.Now().UTC()})
}
