// Package keyring carries the calls between hosts about the keyring, which holds the
// private key of the mesh's CA and which only the voters have. A host without the key asks
// a voter to sign; a host that has become a voter gets the key from another one. Both are
// HTTP over the "virtmesh-keyring" protocol of the mesh port, so both sides have shown a
// host's certificate, and a host that was removed gets no connection.
//
// The key is given to a voter and to nobody else. Who votes is what the configuration of
// the replicated store says on the host that is asked; the caller is the host whose
// certificate is at the other end of the connection. The keys that encrypt gossip are given to
// any host that has a record: one that was off while they were replaced gossips again only with them. To sign, any host may ask: a
// certificate of a host is signed only for the key that the host itself proves or, for a host
// that does not vote, that its record pins. Any host can write records, so a hostile one can
// get the certificate of another host that does not vote; it cannot get one of a voter, and
// so not the key. The certificate of an administrator is signed as the record of its key has it.
//
// The private keys for Secrets are given to voters only, too. Any host of the mesh may ask for
// the data keys of what is encrypted, since any host serves the API and runs guests; a voter
// cannot tell for whom a host asks, and logs what it has opened for whom.
//
// Any host may ask a voter for the token of a service account, for the same reason. The voter signs
// for an account that exists, and logs for whom; a host that is taken over can have tokens of all
// accounts, as it can read and write all objects.
//
// The package decides nothing about when a key moves: agent/membership does.
package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"virtmesh/agent/bearer"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/sealed"
)

const (
	pathHolding   = "/keyring/holding"
	pathGossip    = "/keyring/gossip"
	pathCAKey     = "/keyring/ca-key"
	pathAdmission = "/keyring/admission"
	pathRenewal   = "/keyring/renewal"
	pathClient    = "/keyring/client"
	pathSecrets   = "/keyring/secret-keys"
	pathOpen      = "/keyring/open"
	pathBackupFor = "/keyring/backup-for"
	pathToken     = "/keyring/account-token"

	// pinParameter names the CA whose key is asked for, by its pin.
	pinParameter = "pin"

	// maxBody bounds what is read of a request or an answer, in bytes.
	maxBody = 128 << 10
)

// Holding says what a host has of the keyring.
type Holding struct {
	// Host is the host that answers.
	Host string `json:"host"`
	// CAPin is the pin of the CA that the host can sign with; empty if it holds no key of one.
	CAPin string `json:"caPin,omitempty"`
	// CAPins are the pins of all CAs whose keys the host holds. Hosts of versions before
	// level.Succession do not say.
	CAPins []string `json:"caPins,omitempty"`
	// SecretKeys names the private keys for Secrets that the host holds.
	SecretKeys []string `json:"secretKeys,omitempty"`
	// Bundle is the note of the newest recovery bundle that the host's keyring knows.
	Bundle *identity.BundleMade `json:"bundle,omitempty"`
	// Recoverable are the pins of the CAs whose keys the newest recovery bundle gives back, as the
	// host's keyring vouches for. Hosts of versions before level.Succession do not say.
	Recoverable []string `json:"recoverable,omitempty"`
	// Voter reports whether the host votes, as it sees it.
	Voter bool `json:"voter"`
}

// Recovers reports whether the host vouches that the newest recovery bundle gives back the key of
// a CA.
func (h Holding) Recovers(ca identity.Pin) bool { return slices.Contains(h.Recoverable, ca.String()) }

// HoldsCAKey reports whether the host holds the key of a CA.
func (h Holding) HoldsCAKey(pin identity.Pin) bool {
	return h.CAPin == pin.String() || slices.Contains(h.CAPins, pin.String())
}

// caKeyAnswer is the answer to a voter that asks for the key.
type caKeyAnswer struct {
	Key []byte `json:"key"`
}

// ServerConfig is what a server needs.
type ServerConfig struct {
	// Self is the name of this host.
	Self string
	// Signer signs with the key of this host, and passes nothing on.
	Signer identity.Authority
	// CAKeyOf returns this host's key of the CA with a pin, PEM, or nil; HeldCA returns the pin
	// of the CA that the host can sign with, and HeldCAs those of all whose keys it holds.
	CAKeyOf func(identity.Pin) []byte
	HeldCA  func() (identity.Pin, bool)
	HeldCAs func() []identity.Pin
	// GossipKeys returns the keys of gossip that this host has.
	GossipKeys func() identity.GossipKeyring
	// SecretKeys returns the private keys for Secrets that this host holds; ListedSecretKeys
	// names those of the mesh.
	SecretKeys       func() []sealed.PrivateKey
	ListedSecretKeys func(ctx context.Context) ([]string, error)
	// KnownBundle returns the note of the newest recovery bundle that this host's keyring knows.
	KnownBundle func() *identity.BundleMade
	// Recoverable returns the pins of the CAs in use whose keys the newest recovery bundle gives
	// back, as this host's keyring vouches for.
	Recoverable func(ctx context.Context) ([]identity.Pin, error)
	// BackupFor returns for whom backups are encrypted, by this host's keyring.
	BackupFor func(ctx context.Context) (identity.BackupFor, error)
	// SignToken signs the token of a service account with the key of this host, and passes
	// nothing on.
	SignToken func(context.Context, bearer.Request) (bearer.Signed, error)
	// Recorded reports whether the mesh has a record of a host.
	Recorded func(host string) bool
	// Voters returns the names of the hosts that vote.
	Voters func() []string
	// Logger receives a line for every key that leaves this host, and for every certificate of
	// an administrator and every token of a service account that it signs for another host.
	Logger *slog.Logger
}

type server struct {
	cfg     ServerConfig
	opening *openings
}

// NewHandler serves this host's keyring to other hosts, on a listener of
// port.ProtoKeyring.
func NewHandler(cfg ServerConfig) http.Handler {
	s := server{cfg, newOpenings(cfg.Logger)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathHolding, answerJSON(s.holding))
	mux.HandleFunc("GET "+pathGossip, answerJSON(s.gossipKeys))
	mux.HandleFunc("GET "+pathCAKey, answerJSON(s.caKey))
	mux.HandleFunc("GET "+pathSecrets, answerJSON(s.secretKeys))
	mux.HandleFunc("GET "+pathBackupFor, answerJSON(func(r *http.Request) (any, error) { return cfg.BackupFor(r.Context()) }))
	mux.HandleFunc("POST "+pathOpen, answerJSON(s.open))
	mux.HandleFunc("POST "+pathAdmission, signing(cfg.Signer.SignAdmission))
	mux.HandleFunc("POST "+pathRenewal, signing(cfg.Signer.SignRenewal))
	mux.HandleFunc("POST "+pathClient, signing(s.signClient))
	mux.HandleFunc("POST "+pathToken, signing(s.signToken))
	return mux
}

func (s server) holding(r *http.Request) (any, error) {
	h := Holding{Host: s.cfg.Self, Bundle: s.cfg.KnownBundle(), Voter: slices.Contains(s.cfg.Voters(), s.cfg.Self)}
	if pin, ok := s.cfg.HeldCA(); ok {
		h.CAPin = pin.String()
	}
	for _, pin := range s.cfg.HeldCAs() {
		h.CAPins = append(h.CAPins, pin.String())
	}
	for _, key := range s.cfg.SecretKeys() {
		h.SecretKeys = append(h.SecretKeys, key.ID())
	}
	recoverable, err := s.cfg.Recoverable(r.Context())
	if err != nil {
		return nil, err
	}
	for _, pin := range recoverable {
		h.Recoverable = append(h.Recoverable, pin.String())
	}
	return h, nil
}

func (s server) gossipKeys(r *http.Request) (any, error) {
	if peer := port.PeerOfRequest(r); !s.cfg.Recorded(peer) {
		s.cfg.Logger.Warn("the gossip keys were refused to a host without a record", "host", peer)
		return nil, fault.New(fault.Forbidden, "only a host that the mesh has a record of gets the gossip keys, and %s has none", peer).About(peer)
	}
	return s.cfg.GossipKeys(), nil
}

// onlyVoters returns an error unless the caller votes.
func (s server) onlyVoters(r *http.Request, what string) (peer string, err error) {
	peer = port.PeerOfRequest(r)
	if peer == "" || !slices.Contains(s.cfg.Voters(), peer) {
		s.cfg.Logger.Warn(what+" was refused to a host that does not vote", "host", peer)
		return peer, fault.New(fault.Forbidden, "only a voter gets %s, and %s is none", what, peer).About(peer)
	}
	return peer, nil
}

func (s server) caKey(r *http.Request) (any, error) {
	peer, err := s.onlyVoters(r, "the key of the mesh's CA")
	if err != nil {
		return nil, err
	}
	// Who names no CA is of an earlier version, and means the one that signs.
	pin, held := s.cfg.HeldCA()
	if named := r.URL.Query().Get(pinParameter); named != "" {
		if pin, err = identity.ParsePin(named); err != nil {
			return nil, fault.InField(pinParameter, "%w", err)
		}
		held = true
	}
	var key []byte
	if held {
		key = s.cfg.CAKeyOf(pin)
	}
	if len(key) == 0 {
		return nil, noKey(s.cfg.Self)
	}
	s.cfg.Logger.Info("the key of the CA was given to a voter", "host", peer, "ca", pin.String())
	return caKeyAnswer{Key: key}, nil
}

// noKey is the error of a host that was asked for what needs the key and does not hold it.
func noKey(host string) error {
	return fault.New(fault.Unavailable, "%s does not hold the key of the mesh's CA", host).About(host)
}

// signClient signs for a host that passes a request on, and logs what: the list of
// certificates can be changed by the host that asked.
func (s server) signClient(ctx context.Context, request identity.ClientSigning) (identity.Issued, error) {
	issued, err := s.cfg.Signer.SignClient(ctx, request)
	if err != nil {
		return issued, err
	}
	certs, err := identity.ParseCertificates(issued.Chain)
	if err != nil {
		return identity.Issued{}, fmt.Errorf("read the certificate that was signed: %w", err)
	}
	s.cfg.Logger.Info("the certificate of an administrator was signed for another host", "host", port.PeerOfContext(ctx),
		"user", certs[0].Subject.CommonName, "key", identity.KeyHash(identity.PinOf(certs[0])), "expires", certs[0].NotAfter)
	return issued, nil
}

// signToken signs the token of a service account for a host that passes a request on, and logs
// for which account: the account can be deleted later.
func (s server) signToken(ctx context.Context, request bearer.Request) (bearer.Signed, error) {
	signed, err := s.cfg.SignToken(ctx, request)
	if err != nil {
		return signed, err
	}
	s.cfg.Logger.Info("a token of a service account was signed for another host", "host", port.PeerOfContext(ctx),
		"user", request.Account.User(), "uid", request.Account.ServiceAccount.UID, "expires", signed.Expires)
	return signed, nil
}

// signing serves a request to sign.
func signing[R, A any](sign func(context.Context, R) (A, error)) http.HandlerFunc {
	return answerJSON(func(r *http.Request) (any, error) {
		var request R
		if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&request); err != nil {
			return nil, fault.New(fault.Invalid, "read the request to sign: %w", err)
		}
		issued, err := sign(r.Context(), request)
		if errors.Is(err, identity.ErrNoCAKey) {
			return nil, fault.New(fault.Unavailable, "%w", err)
		}
		return issued, err
	})
}

func answerJSON(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := do(r)
		if err != nil {
			fault.Write(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(value) // fails only when the client is gone
	}
}
