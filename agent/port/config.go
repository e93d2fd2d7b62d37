package port

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity"
	"virtmesh/gossip/places"
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
	// ProtoKeyring carries the calls about the voters' keyring, as HTTP/1.1.
	ProtoKeyring = "virtmesh-keyring"

	// meshPrefix begins the name of every protocol between hosts.
	meshPrefix = "virtmesh-"
	// ProtoAPI stands for the API in metrics, in the table of listeners and in Peer.
	ProtoAPI = "api"
	// protoStrangers is the API for callers without a certificate, in the table of
	// listeners.
	protoStrangers = "api strangers"
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

// Peer is a host that showed its certificate, and for what.
type Peer struct {
	Node identity.Node
	// Key is the pin of the key in the certificate.
	Key identity.Pin
	// Proto is the protocol of the connection, one of the Proto names; ProtoAPI for the API.
	Proto string
	// Dialled says that this host has called the other one.
	Dialled bool
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
	// Admit, if set, is called after the certificate of a mesh host was verified, on both
	// sides of a connection and for every protocol that shows one; an error refuses the
	// host. It must not block. The agent uses it to refuse machines that were removed and
	// whose certificates have not expired yet, and those that no host's record vouches for.
	Admit func(peer Peer) error
	// ClientCAs, if set, returns the CAs with which certificates of people are verified: those
	// of Credentials.Roots, which it is given, and others. It must not block.
	ClientCAs func(roots *x509.CertPool) *x509.CertPool
	// HostAt, if set, returns the name of the host at a mesh address, or "" if unknown.
	// Dial then accepts no other host at that address. It must not block.
	HostAt func(addr string) string
	// HandshakeTimeout bounds a handshake; in Dial it also covers the TCP connect.
	HandshakeTimeout time.Duration
	// Known, if set, reports whether an IP address is that of a host of the mesh. Who
	// calls from another one is a stranger until he shows a certificate. It must not
	// block. Without it, every caller may be a host.
	Known func(addr netip.Addr) bool
	// Handshakes bounds the handshakes that run at the same time. A connection that gets
	// no place, or loses it to somebody else, is closed.
	Handshakes places.Limits
	// HandshakeBytes bounds what a caller may send before its handshake ends.
	HandshakeBytes int
	// StrangerHandshakes bounds the handshakes that begin in a second, for callers that
	// are no hosts by their address. Further ones wait.
	StrangerHandshakes int
	// WithoutCertificate bounds the open connections whose callers showed no certificate,
	// to the API or to join; those at addresses of hosts are apart. Connections with a
	// certificate are not counted.
	WithoutCertificate places.Limits
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
		Bind:             ":7443",
		HandshakeTimeout: 10 * time.Second,
		// A handshake takes a caller on the same network a few milliseconds. It needs
		// about 50 KB here. One source may begin as many as all strangers, since many clients
		// may share an address; if there are others, the one with most makes room.
		Handshakes: places.Limits{Members: 2048, MembersPerSource: 256, Strangers: 512, StrangersPerSource: 512},
		// The first message and a certificate have 3 KB.
		HandshakeBytes: 32 << 10,
		// One costs half a millisecond of CPU.
		StrangerHandshakes: 300,
		WithoutCertificate: places.Limits{Members: 512, MembersPerSource: 64, Strangers: 512, StrangersPerSource: 128},
		Backlog:            256,
		Logger:             slog.New(slog.DiscardHandler),
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
	case !c.Handshakes.Valid():
		return errors.New("mesh port: every limit of Handshakes must be at least 1")
	case c.HandshakeBytes < 1:
		return errors.New("mesh port: HandshakeBytes must be at least 1")
	case c.StrangerHandshakes < 1:
		return errors.New("mesh port: StrangerHandshakes must be at least 1")
	case !c.WithoutCertificate.Valid():
		return errors.New("mesh port: every limit of WithoutCertificate must be at least 1")
	case c.Backlog < 1:
		return errors.New("mesh port: Backlog must be at least 1")
	case c.Logger == nil:
		return errors.New("mesh port: Logger is nil")
	}
	return nil
}
