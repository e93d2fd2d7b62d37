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
	"strconv"
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
	// Timeout bounds a request other than a stream; a request to freeze or unfreeze a guest's
	// file systems, which may take it long, freezeTimes as much. Default 15 s.
	Timeout time.Duration
}

// freezeTimes is how many times Config.Timeout a guest may take to freeze or unfreeze its file
// systems: its host gives it 25 s for either, and to one that does not freeze 20 s more to unfreeze.
const freezeTimes = 3

// maxAnswerBytes bounds the answer of another host, the largest of which is the picture of
// a display.
const maxAnswerBytes = MaxScreenshotBytes

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
	return r.act(ctx, namespace, name, "pause", r.config.Local.Pause)
}

// Unpause implements Instances.
func (r *Router) Unpause(ctx context.Context, namespace, name string) error {
	return r.act(ctx, namespace, name, "unpause", r.config.Local.Unpause)
}

// Reboot implements Instances.
func (r *Router) Reboot(ctx context.Context, namespace, name string) error {
	return r.act(ctx, namespace, name, "reboot", r.config.Local.Reboot)
}

// Reset implements Instances.
func (r *Router) Reset(ctx context.Context, namespace, name string) error {
	return r.act(ctx, namespace, name, "reset", r.config.Local.Reset)
}

// Freeze implements GuestAgents.
func (r *Router) Freeze(ctx context.Context, namespace, name string, limit time.Duration) error {
	return r.actWithin(ctx, freezeTimes*r.config.Timeout, namespace, name, "freeze?limit="+limit.String(), func(ctx context.Context, namespace, name string) error {
		return r.config.Local.Freeze(ctx, namespace, name, limit)
	})
}

// Unfreeze implements GuestAgents.
func (r *Router) Unfreeze(ctx context.Context, namespace, name string) error {
	return r.actWithin(ctx, freezeTimes*r.config.Timeout, namespace, name, "unfreeze", r.config.Local.Unfreeze)
}

// Screenshot implements Instances.
func (r *Router) Screenshot(ctx context.Context, namespace, name string, wake bool) ([]byte, error) {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if host == r.config.Self {
		return r.config.Local.Screenshot(ctx, namespace, name, wake)
	}
	return r.call(ctx, host, http.MethodGet, path(namespace, name, "screenshot?wake="+strconv.FormatBool(wake)), nil)
}

// GuestOSInfo implements GuestAgents.
func (r *Router) GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return ask(ctx, r, namespace, name, "guest/osinfo", r.config.Local.GuestOSInfo)
}

// Users implements GuestAgents.
func (r *Router) Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return ask(ctx, r, namespace, name, "guest/users", r.config.Local.Users)
}

// Filesystems implements GuestAgents.
func (r *Router) Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return ask(ctx, r, namespace, name, "guest/filesystems", r.config.Local.Filesystems)
}

// Stream implements Instances. The stream stays open until it is closed or ctx ends, on
// whichever host the guest runs.
func (r *Router) Stream(ctx context.Context, namespace, name string, request StreamRequest) (io.ReadWriteCloser, error) {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if host == r.config.Self {
		return r.config.Local.Stream(ctx, namespace, name, request)
	}
	conn, err := r.config.Dial(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	stream, err := r.upgrade(ctx, host, conn, path(namespace, name, request.path()))
	if err != nil {
		conn.Close()
		return nil, err
	}
	if request.Protocol == UDP {
		return newPacketStream(stream), nil
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

// act has the host of an instance do something: rest is the request's path at other hosts.
func (r *Router) act(ctx context.Context, namespace, name, rest string, local func(ctx context.Context, namespace, name string) error) error {
	return r.actWithin(ctx, r.config.Timeout, namespace, name, rest, local)
}

// actWithin is act for what takes another host at most a given time.
func (r *Router) actWithin(ctx context.Context, limit time.Duration, namespace, name, rest string, local func(ctx context.Context, namespace, name string) error) error {
	host, err := r.config.HostOf(ctx, namespace, name)
	if err != nil {
		return err
	}
	if host == r.config.Self {
		return local(ctx, namespace, name)
	}
	_, err = r.callWithin(ctx, limit, host, http.MethodPost, path(namespace, name, rest), nil)
	return err
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
	return r.callWithin(ctx, r.config.Timeout, host, method, path, body)
}

func (r *Router) callWithin(ctx context.Context, limit time.Duration, host, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
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
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", fault.Unreachable, host, err)
	}
	return answer, nil
}
