package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
)

// verifier checks the certificate chain of the answering host, leaf first.
type verifier func(chain []*x509.Certificate) error

// caller makes the requests of one exchange with one member, over one connection.
type caller struct {
	addr   string
	self   port.Speaker
	client *http.Client
}

// newCaller returns a caller. It does not connect yet. The caller must be closed with
// close.
func newCaller(addr string, self port.Speaker, verify verifier) *caller {
	c := &caller{addr: addr, self: self}
	c.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialJoin(ctx, addr, verify)
			},
			MaxConnsPerHost:        1,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

func (c *caller) close() { c.client.CloseIdleConnections() }

// dialTimeout is how long a host has to accept a connection.
const dialTimeout = 5 * time.Second

// plainConn hides from net/http that the connection is TLS, so that net/http ignores
// the ALPN protocol.
type plainConn struct{ net.Conn }

func dialJoin(ctx context.Context, addr string, verify verifier) (net.Conn, error) {
	raw, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &unreachedError{err}
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{port.ProtoJoin},
		// The server is identified by the CA that signed its certificate and by its
		// subject, not by a DNS name, so VerifyConnection does the whole verification.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != port.ProtoJoin {
				return fmt.Errorf("%s does not speak the join protocol", addr)
			}
			return verify(state.PeerCertificates)
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return plainConn{conn}, nil
}

// call sends one request and decodes the answer, or returns the error that the answer
// holds.
func (c *caller) call(ctx context.Context, method, path string, request, answer any) error {
	var body bytes.Buffer
	if request != nil {
		if err := json.NewEncoder(&body).Encode(request); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	// The address is only used for the Host header: DialContext connects to addr.
	req, err := http.NewRequestWithContext(ctx, method, "http://mesh"+path, &body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	c.self.Introduce(req.Header)
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.addr, unwrapURLError(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return memberError(c.addr, fault.Read(resp))
	}
	if err := decodeJSON(resp.Body, maxAnswer, answer); err != nil {
		return fmt.Errorf("ask %s: answer: %w", c.addr, err)
	}
	return nil
}

// unwrapURLError removes the wrapper that net/http puts around an error, because it
// names a URL that the user never typed.
func unwrapURLError(err error) error {
	if u := errors.Unwrap(err); u != nil {
		return u
	}
	return err
}

// RenewalConfig says which members Renewal asks for the next certificate.
type RenewalConfig struct {
	// Identity is the identity to renew.
	Identity *identity.Identity
	// Version is the version of this host's software.
	Version string
	// Members returns the mesh addresses to try, in order.
	Members func() []string
	// Attempt bounds the request to one member.
	Attempt time.Duration
}

// Renewal returns the Issuer that asks other members to sign the next certificate. It
// also works when the present certificate has expired.
func Renewal(cfg RenewalConfig) identity.Issuer {
	if cfg.Attempt <= 0 {
		cfg.Attempt = 5 * time.Second
	}
	return identity.IssuerFunc(func(ctx context.Context, csr []byte) (identity.Issued, error) {
		proof, err := cfg.Identity.Prove(csr)
		if err != nil {
			return identity.Issued{}, err
		}
		failed := ErrUnavailable
		for _, addr := range cfg.Members() {
			issued, err := renewAt(ctx, cfg, addr, proof)
			if err == nil {
				return issued, nil
			}
			if errors.Is(err, fault.NoHost) || errors.Is(err, fault.Expelled) {
				return identity.Issued{}, err // every other member would give the same answer
			}
			failed = fmt.Errorf("%w; %w", failed, err)
			if ctx.Err() != nil {
				break
			}
		}
		return identity.Issued{}, failed
	})
}

func renewAt(ctx context.Context, cfg RenewalConfig, addr string, proof identity.RenewalProof) (identity.Issued, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Attempt)
	defer cancel()
	c := newCaller(addr, port.NewSpeaker(cfg.Identity.Node().Name, cfg.Version), func(chain []*x509.Certificate) error {
		_, err := identity.VerifyNode(chain, cfg.Identity.Roots(), time.Now(), x509.ExtKeyUsageServerAuth)
		return err
	})
	defer c.close()
	var issued identity.Issued
	err := c.call(ctx, http.MethodPost, pathRenew, proof, &issued)
	return issued, err
}
