package enrol

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/gossip/places"
	"virtmesh/raftstore"
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
	// FeatureLevel, if set, returns the feature level of the mesh. A host that does not
	// know it is refused. It must not block.
	FeatureLevel func() uint32
	// GuestNetwork, if set, returns the range of the addresses of the mesh's guests, or "" if
	// the mesh keeps none. It must not block.
	GuestNetwork func() string
	// CheckGuestNetwork, if set, returns a fault if a host that will use a range, or that does
	// not say which (""), cannot join. It must not block.
	CheckGuestNetwork func(own string) error
	// Manifests, if set, returns lists of the mesh's voters after a version, in order, and not
	// more than fits into an answer. Strangers may have them.
	Manifests func(ctx context.Context, after uint64) ([][]byte, error)
	// News, if set, is told the address of somebody who says that it has such lists. It must not
	// block.
	News func(address string)
	// MaxSkew is how much the clock of a joining host may differ from this host's.
	MaxSkew time.Duration
	// Timeout bounds one request, from the moment its body has been read.
	Timeout time.Duration
	// BodyTimeout bounds how long a caller may take to send the body of a request.
	BodyTimeout time.Duration
	// MaxRequests bounds the requests of each sort that run at the same time; the server
	// answers further ones with "unavailable". The sorts are renewals by hosts that have
	// proved who they are, machines with a token that this host knows, and machines with
	// a token that it does not know, which get an eighth of the places: a stranger can
	// only fill these. A request counts only once its body has been read and checked, so
	// a slow caller blocks nobody.
	MaxRequests int
	// Logger receives a line for every host that is admitted, and for a bounded number of
	// those that are refused.
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
	handler  http.Handler
	requests *prometheus.CounterVec
	refusals *places.RefusalLog
	// renewals, known and unknown are the places of each sort of request.
	renewals, known, unknown chan struct{}
	// strangers are the places of those who want or have lists of voters; listings and tidings
	// are their paces.
	strangers         chan struct{}
	listings, tidings *paces
	// guesses is the pace of requests with a token that this host does not know: each asks
	// the leader.
	guesses *rate.Limiter
}

// unknownPerSecond is how many requests with an unknown token are looked into in a second.
// A token is unknown to a host for the moment only until its copy of the store has it.
const unknownPerSecond = 2

// request is a request that has passed the checks that cost little.
type request struct {
	places chan struct{}
	run    func(ctx context.Context) (any, error)
}

var _ http.Handler = (*Server)(nil)

// NewServer returns a Server.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, refusals: places.NewRefusalLog(cfg.Logger),
		renewals: make(chan struct{}, cfg.MaxRequests), known: make(chan struct{}, cfg.MaxRequests),
		unknown: make(chan struct{}, max(1, cfg.MaxRequests/8)), guesses: rate.NewLimiter(unknownPerSecond, cfg.MaxRequests),
		strangers: make(chan struct{}, max(1, cfg.MaxRequests/4)), listings: newPaces(), tidings: newPaces(),
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
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathJoin, s.boundedHandler("join", s.checkJoin))
	mux.HandleFunc("POST "+pathRenew, s.boundedHandler("renew", s.checkRenewal))
	mux.HandleFunc("POST "+pathStanding, s.boundedHandler("standing", s.checkStanding))
	mux.HandleFunc("POST "+pathManifests, s.boundedHandler("manifests", s.checkManifests))
	mux.HandleFunc("POST "+pathNews, s.boundedHandler("news", s.checkNews))
	mux.HandleFunc("GET "+pathClock, s.serveClock)
	self := func() port.Speaker { return port.NewSpeaker(cfg.Host, cfg.Version) }
	s.handler = port.MeetCallers(self, cfg.Logger, mux)
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Close unregisters the metrics.
func (s *Server) Close() {
	if s.cfg.Registerer != nil {
		s.cfg.Registerer.Unregister(s.requests)
	}
}

// boundedHandler runs an operation within the limits on time and number of requests,
// and writes its answer.
func (s *Server) boundedHandler(operation string, check func(ctx context.Context, body []byte, from string) (request, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := s.runOperation(w, r, check)
		if err == nil {
			s.requests.WithLabelValues(operation, "ok").Inc()
			s.writeAnswer(w, http.StatusOK, answer)
			return
		}
		told := publicFault(err)
		s.requests.WithLabelValues(operation, string(told.Code)).Inc()
		s.refusals.Record(operation+" refused", "from", r.RemoteAddr, "code", told.Code, "err", err)
		fault.Write(w, told)
	}
}

// runOperation reads and checks a request, takes a place and runs it.
func (s *Server) runOperation(w http.ResponseWriter, r *http.Request, check func(context.Context, []byte, string) (request, error)) (any, error) {
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
	req, err := check(ctx, body, r.RemoteAddr)
	if err != nil {
		return nil, err
	}
	select {
	case req.places <- struct{}{}:
		defer func() { <-req.places }()
		return req.run(ctx)
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

// checkJoin checks what can be checked without another host.
func (s *Server) checkJoin(ctx context.Context, body []byte, from string) (request, error) {
	req, err := decodeRequest(body)
	if err != nil {
		return request{}, err
	}
	now := time.Now()
	if skew := req.Clock.Sub(now).Abs(); skew > s.cfg.MaxSkew {
		return request{}, clockSkewFault(req.Clock, now, s.cfg.MaxSkew)
	}
	if s.cfg.FeatureLevel != nil {
		host := port.NewSpeaker(req.Host, req.Version)
		host.Levels = raftstore.LevelRange{Lowest: req.LowestFeatureLevel, Highest: req.FeatureLevel}
		if err := port.CheckLevel(s.cfg.FeatureLevel(), s.cfg.Version, host); err != nil {
			return request{}, err
		}
	}
	if s.cfg.CheckGuestNetwork != nil {
		if err := s.cfg.CheckGuestNetwork(req.GuestNetwork); err != nil {
			return request{}, err
		}
	}
	key, err := identity.ParseCSR(req.CSR)
	if err != nil {
		return request{}, badFieldFault("csr", err)
	}
	known, err := s.cfg.Signer.KnowsToken(ctx, req.TokenID, req.Secret)
	if err != nil {
		return request{}, err
	}
	free := s.known
	if !known {
		if free = s.unknown; !s.guesses.Allow() {
			return request{}, ErrUnavailable
		}
	}
	return request{free, func(ctx context.Context) (any, error) { return s.admitHost(ctx, req, key, from) }}, nil
}

func (s *Server) admitHost(ctx context.Context, req Request, key *ecdsa.PublicKey, from string) (any, error) {
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
		answer.Members = append(answer.Members, m.Seed())
	}
	s.cfg.Logger.Info("host admitted", "host", req.Host, "from", from, "token", req.TokenID)
	return answer, nil
}

// readProof reads which host asks, and verifies it.
func (s *Server) readProof(ctx context.Context, body []byte) (identity.RenewalProof, identity.Node, error) {
	var proof identity.RenewalProof
	if err := unmarshalJSON(body, &proof); err != nil {
		return proof, identity.Node{}, badFieldFault("body", err)
	}
	node, err := s.cfg.Signer.VerifyProof(ctx, proof)
	return proof, node, err
}

// checkRenewal checks which host asks.
func (s *Server) checkRenewal(ctx context.Context, body []byte, from string) (request, error) {
	proof, node, err := s.readProof(ctx, body)
	if err != nil {
		return request{}, err
	}
	return request{s.renewals, func(ctx context.Context) (any, error) {
		issued, err := s.cfg.Signer.SignRenewal(ctx, proof)
		if err != nil {
			return nil, err
		}
		s.cfg.Logger.Info("certificate signed", "host", node.Name, "from", from)
		return issued, nil
	}}, nil
}

func (s *Server) serveClock(w http.ResponseWriter, _ *http.Request) {
	answer := clockAnswer{Host: s.cfg.Host, Clock: time.Now().UTC()}
	if s.cfg.GuestNetwork != nil {
		answer.GuestNetwork = s.cfg.GuestNetwork()
	}
	s.writeAnswer(w, http.StatusOK, answer)
}
