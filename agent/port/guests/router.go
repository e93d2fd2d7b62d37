package guests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/port"
)

// Config says where hosts are and how to connect to them.
type Config struct {
	// Self is this host's name. Requests for it are served in the process.
	Self string
	// Local serves this host's own instances.
	Local Instances
	// Offerer answers for this host.
	Offerer Offerer
	// HostOf returns the host of an instance. It returns fault.NotFound for an unknown
	// instance and fault.NotRunning for one that has no host.
	HostOf func(ctx context.Context, namespace, name string) (host string, err error)
	// Dial opens an authenticated connection to a host's RPC protocol.
	Dial func(ctx context.Context, host string) (net.Conn, error)
	// Speaker returns what this host says of itself to the others. Nil: nothing.
	Speaker func() port.Speaker
	// Timeout bounds a request other than a stream. Default 15 s.
	Timeout time.Duration
}

// Router sends each request to the host that can serve it.
type Router struct {
	config Config
	client *http.Client
}

var _ Instances = (*Router)(nil)

// NewRouter makes a Router. It keeps idle connections to other hosts; Close closes
// them.
func NewRouter(config Config) *Router {
	if config.Timeout == 0 {
		config.Timeout = 15 * time.Second
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("host in %q: %w", addr, err)
			}
			return config.Dial(ctx, host)
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	return &Router{config: config, client: &http.Client{Transport: transport}}
}

// Close closes idle connections. Running requests finish.
func (r *Router) Close() { r.client.CloseIdleConnections() }

// Offer asks a host for an offer; it asks this host directly. An error means that the
// host gave no answer.
func (r *Router) Offer(ctx context.Context, host string, request claims.OfferRequest) (claims.Offer, error) {
	if host == r.config.Self {
		return r.config.Offerer.Offer(ctx, request)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return claims.Offer{}, fmt.Errorf("encode offer request: %w", err)
	}
	answer, err := r.call(ctx, host, http.MethodPost, "/offer", body)
	if err != nil {
		return claims.Offer{}, err
	}
	var offer claims.Offer
	if err := json.Unmarshal(answer, &offer); err != nil {
		return claims.Offer{}, fmt.Errorf("read the offer of %s: %w", host, err)
	}
	return offer, nil
}

// Pause implements Instances.
func (r *Router) Pause(ctx context.Context, namespace, name string) error {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return err
	}
	if host == r.config.Self {
		return r.config.Local.Pause(ctx, namespace, name)
	}
	_, err = r.call(ctx, host, http.MethodPost, path(namespace, name, "pause"), nil)
	return err
}

// Unpause implements Instances.
func (r *Router) Unpause(ctx context.Context, namespace, name string) error {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return err
	}
	if host == r.config.Self {
		return r.config.Local.Unpause(ctx, namespace, name)
	}
	_, err = r.call(ctx, host, http.MethodPost, path(namespace, name, "unpause"), nil)
	return err
}

// GuestOSInfo implements Instances.
func (r *Router) GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return ask(ctx, r, namespace, name, "guest/osinfo", r.config.Local.GuestOSInfo)
}

// Users implements Instances.
func (r *Router) Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return ask(ctx, r, namespace, name, "guest/users", r.config.Local.Users)
}

// Filesystems implements Instances.
func (r *Router) Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return ask(ctx, r, namespace, name, "guest/filesystems", r.config.Local.Filesystems)
}

// Stream implements Instances. The stream stays open until it is closed or ctx ends, on
// whichever host the guest runs.
func (r *Router) Stream(ctx context.Context, namespace, name string, kind StreamKind) (io.ReadWriteCloser, error) {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if host == r.config.Self {
		return r.config.Local.Stream(ctx, namespace, name, kind)
	}
	conn, err := r.config.Dial(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	stream, err := r.upgrade(ctx, host, conn, path(namespace, name, string(kind)))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return stream, nil
}

func (r *Router) upgrade(ctx context.Context, host string, conn net.Conn, path string) (io.ReadWriteCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, fmt.Errorf("make stream request: %w", err)
	}
	r.introduce(request.Header)
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", streamProtocol)
	if err := conn.SetDeadline(time.Now().Add(r.config.Timeout)); err != nil {
		return nil, fmt.Errorf("bound stream request: %w", err)
	}
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return nil, readFault(host, response)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("unbound stream: %w", err)
	}
	return &bufferedConn{Conn: conn, reader: reader}, nil
}

// introduce says in a request's header who asks.
func (r *Router) introduce(header http.Header) {
	if r.config.Speaker != nil {
		r.config.Speaker().Introduce(header)
	}
}

func path(namespace, name, rest string) string {
	return "/instances/" + namespace + "/" + name + "/" + rest
}

func ask[T any](ctx context.Context, r *Router, namespace, name, rest string,
	local func(ctx context.Context, namespace, name string) (*T, error)) (*T, error) {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if host == r.config.Self {
		return local(ctx, namespace, name)
	}
	body, err := r.call(ctx, host, http.MethodGet, path(namespace, name, rest), nil)
	if err != nil {
		return nil, err
	}
	value := new(T)
	if err := json.Unmarshal(body, value); err != nil {
		return nil, fmt.Errorf("host %s: read answer to %s: %w", host, rest, err)
	}
	return value, nil
}

func (r *Router) call(ctx context.Context, host, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request to %s: %w", host, err)
	}
	r.introduce(request.Header)
	response, err := r.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return nil, readFault(host, response)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	return answer, nil
}
