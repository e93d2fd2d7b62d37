package port

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity"
)

// ALPN names of the protocols.
const (
	// ProtoRaft carries the consensus messages of raftstore.
	ProtoRaft = "virtmesh-raft"
	// ProtoStore carries raftstore's own calls between replicas.
	ProtoStore = "virtmesh-store"
	// ProtoRPC carries HTTP/1.1 calls between agents.
	ProtoRPC = "virtmesh-rpc"
	// ProtoJoin carries the join protocol. Its callers have no certificate.
	ProtoJoin = "virtmesh-join"

	// meshPrefix begins the name of every protocol between hosts.
	meshPrefix = "virtmesh-"
	// protoAPI stands for the API in metrics and in the table of listeners.
	protoAPI = "api"
)

// unspeakable returns a protocol name that no caller can offer: it is longer than the 255
// bytes that a name in a handshake may have. A server configuration with it alone
// refuses the handshake.
func unspeakable() string { return strings.Repeat("x", 256) }

// Credentials returns the certificates of this host; identity.Identity implements it.
// Every handshake calls its methods, from many goroutines, so they must not block.
type Credentials interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Roots returns the CAs to trust now.
	Roots() *x509.CertPool
}

// Config is what a Port needs.
type Config struct {
	// Bind is the TCP address to listen on, "host:port".
	Bind string
	// Advertise is the "host:port" that the listeners report as their address; empty
	// stands for the bound address. Raft sends it to its peers.
	Advertise string
	// Credentials are the certificates of this host.
	Credentials Credentials
	// Admit, if set, is called after the certificate of a mesh host was verified, on
	// both sides of a connection and for every protocol that shows one; an error
	// refuses the host. It must not block. The agent uses it to refuse machines that
	// were removed and whose certificates have not expired yet.
	Admit func(node identity.Node) error
	// HostAt, if set, returns the name of the host at a mesh address, or "" if unknown.
	// Dial then accepts no other host at that address. It must not block.
	HostAt func(addr string) string
	// HandshakeTimeout bounds a handshake; in Dial it also covers the TCP connect.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes that run at the same time. Further callers
	// wait in the kernel's accept queue.
	MaxHandshakes int
	// MaxHandshakesPerSource bounds the handshakes of one source address. Further
	// connections are closed.
	MaxHandshakesPerSource int
	// MaxStrangersPerSource bounds the open connections of one source address whose
	// callers showed no certificate, to the API or to join. Further ones are closed.
	// Connections with a certificate are not counted.
	MaxStrangersPerSource int
	// Backlog is how many connections of one protocol may wait to be accepted. Further
	// ones wait for at most HandshakeTimeout and are then closed.
	Backlog int
	// Logger receives refused handshakes at debug level.
	Logger *slog.Logger
	// Registerer receives the metrics; nil registers none.
	Registerer prometheus.Registerer
}

// DefaultConfig returns the configuration of a real host, without Credentials.
func DefaultConfig() Config {
	return Config{
		Bind:                   ":7443",
		HandshakeTimeout:       10 * time.Second,
		MaxHandshakes:          2048,
		MaxHandshakesPerSource: 1024,
		MaxStrangersPerSource:  128,
		Backlog:                256,
		Logger:                 slog.New(slog.DiscardHandler),
	}
}

// Validate says what is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Bind == "":
		return errors.New("mesh port: Bind is empty")
	case c.Credentials == nil:
		return errors.New("mesh port: Credentials is nil")
	case c.HandshakeTimeout <= 0:
		return errors.New("mesh port: HandshakeTimeout must be positive")
	case c.MaxHandshakes < 1:
		return errors.New("mesh port: MaxHandshakes must be at least 1")
	case c.MaxHandshakesPerSource < 1 || c.MaxHandshakesPerSource > c.MaxHandshakes:
		return errors.New("mesh port: want 1 <= MaxHandshakesPerSource <= MaxHandshakes")
	case c.MaxStrangersPerSource < 1:
		return errors.New("mesh port: MaxStrangersPerSource must be at least 1")
	case c.Backlog < 1:
		return errors.New("mesh port: Backlog must be at least 1")
	case c.Logger == nil:
		return errors.New("mesh port: Logger is nil")
	}
	return nil
}
