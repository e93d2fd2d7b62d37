package api

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"virtmesh/agent/api/access"
	"virtmesh/agent/api/audit"
	"virtmesh/agent/api/store"
	"virtmesh/agent/api/tokens"
	"virtmesh/agent/port/guests"
	machine "virtmesh/agent/vmi"
)

// Config holds what a Server needs.
type Config struct {
	// Store stores the objects.
	Store store.Backend
	// Instances forwards subresource requests to the running instances.
	Instances guests.Instances
	// ClientCAs returns the CAs of client certificates. It is called for each request,
	// so they may change.
	ClientCAs func() *x509.CertPool
	// Authorizer decides, from feature level level.Access on, what an authenticated client may
	// do who is no administrator; nil lets him do nothing.
	Authorizer *access.Roles
	// Tokens is what tokens of service accounts need; without a Signer nobody can use any.
	Tokens tokens.Config
	// Logger receives the server's log lines.
	Logger *slog.Logger
	// Metrics is served at /metrics together with the server's own metrics; nil adds
	// nothing.
	Metrics prometheus.Gatherer
	// Audit writes down who did what; nil writes nothing.
	Audit *audit.Log
	// Ready holds further checks of /readyz, by name.
	Ready map[string]func(context.Context) error

	// Address is the host:port at which clients reach the server; discovery reports it.
	Address string
	// KubernetesVersion is the Kubernetes version that the server reports to clients.
	KubernetesVersion string
	// Version is the product's own version, which virtctl asks for.
	Version string
	// Defaults returns the mesh's defaults for virtual machines. It is called at each
	// write, so they may change.
	Defaults func() machine.Defaults

	// MaxReads and MaxWrites bound the concurrent requests, not counting watches and
	// streams. Clients of further requests are told to retry.
	MaxReads, MaxWrites int
	// RequestTimeout bounds requests other than watches and streams.
	RequestTimeout time.Duration
	// Patience is how long a request waits for the mesh to have a leader.
	Patience time.Duration
}

// DefaultConfig returns a Config that is complete except for Store, Instances and
// ClientCAs.
func DefaultConfig() Config {
	return Config{
		Logger:            slog.Default(),
		Address:           "127.0.0.1:6443",
		KubernetesVersion: "v1.37.2",
		Version:           "v1.8.0",
		Defaults:          machine.DefaultDefaults,
		MaxReads:          400,
		MaxWrites:         200,
		RequestTimeout:    time.Minute,
		Patience:          store.DefaultPatience,
	}
}

// Validate reports what is missing or wrong.
func (c Config) Validate() error {
	switch {
	case c.Store == nil:
		return errors.New("api: config: Store is not set")
	case c.Instances == nil:
		return errors.New("api: config: Instances is not set")
	case c.ClientCAs == nil:
		return errors.New("api: config: ClientCAs is not set")
	case c.Defaults == nil:
		return errors.New("api: config: Defaults is not set")
	case c.Tokens.Signer != nil && c.Tokens.Store == nil:
		return errors.New("api: config: Tokens.Store is not set")
	case c.Logger == nil:
		return errors.New("api: config: Logger is not set")
	case c.Address == "":
		return errors.New("api: config: Address is not set")
	case c.MaxReads <= 0 || c.MaxWrites <= 0:
		return errors.New("api: config: MaxReads and MaxWrites must be greater than zero")
	case c.RequestTimeout <= 0 || c.Patience <= 0:
		return errors.New("api: config: RequestTimeout and Patience must be greater than zero")
	}
	if _, err := utilversion.ParseSemantic(c.KubernetesVersion); err != nil {
		return fmt.Errorf("api: config: KubernetesVersion: %w", err)
	}
	return nil
}
