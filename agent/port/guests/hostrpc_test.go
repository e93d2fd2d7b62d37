package guests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
)

// guests is a host with one instance, default/vm, whose console echoes.
type guests struct {
	host   string
	paused bool
	// acts are the acts on it, but for pauses.
	acts []string
}

func (g *guests) find(namespace, name string) error {
	if namespace != "default" || name != "vm" {
		return fmt.Errorf("%w: %s/%s", fault.NotFound, namespace, name)
	}
	return nil
}

func (g *guests) Stream(_ context.Context, namespace, name string, request StreamRequest) (io.ReadWriteCloser, error) {
	if err := g.find(namespace, name); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	if request.Kind == Forward {
		g.acts = append(g.acts, fmt.Sprintf("%s port %d", request.Protocol, request.Port))
		go func() { io.CopyBuffer(struct{ io.Writer }{far}, struct{ io.Reader }{far}, make([]byte, maxPacket)) }()
		return near, nil
	}
	if request.Preserve {
		return nil, fault.New(fault.Conflict, "in use")
	}
	go func() {
		fmt.Fprintf(far, "welcome to %s\n", g.host)
		io.Copy(far, far)
	}()
	return near, nil
}

func (g *guests) Pause(_ context.Context, namespace, name string) error {
	if g.paused {
		return fmt.Errorf("%w: already paused", fault.Conflict)
	}
	g.paused = true
	return g.find(namespace, name)
}

func (g *guests) Unpause(_ context.Context, namespace, name string) error {
	g.paused = false
	return g.find(namespace, name)
}

func (g *guests) act(namespace, name, act string) error {
	g.acts = append(g.acts, act)
	return g.find(namespace, name)
}

func (g *guests) Reboot(_ context.Context, namespace, name string) error {
	return g.act(namespace, name, "reboot")
}

func (g *guests) Reset(_ context.Context, namespace, name string) error {
	return g.act(namespace, name, "reset")
}

func (g *guests) Freeze(_ context.Context, namespace, name string, limit time.Duration) error {
	return g.act(namespace, name, "freeze for "+limit.String())
}

func (g *guests) Unfreeze(_ context.Context, namespace, name string) error {
	return g.act(namespace, name, "unfreeze")
}

func (g *guests) Screenshot(_ context.Context, namespace, name string, wake bool) ([]byte, error) {
	return []byte("the display of " + g.host), g.act(namespace, name, fmt.Sprint("picture, woken ", wake))
}

func (g *guests) GuestOSInfo(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return &kubevirtv1.VirtualMachineInstanceGuestAgentInfo{Hostname: "guest-on-" + g.host}, nil
}

func (g *guests) Users(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return nil, fault.NoGuestAgent
}

func (g *guests) Filesystems(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return &kubevirtv1.VirtualMachineInstanceFileSystemList{}, nil
}

func (g *guests) Offer(_ context.Context, request claims.OfferRequest) (claims.Offer, error) {
	return claims.Offer{Reason: g.host + " refuses " + request.Name}, nil
}

// twoHosts makes a router on host "near" for an instance that runs on "far".
func twoHosts(t *testing.T, runsOn string) *Router {
	t.Helper()
	far := &guests{host: "far"}
	server := httptest.NewServer(NewHandler(far, far, slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	router := NewRouter(Config{
		Self: "near", Local: &guests{host: "near"}, Offerer: &guests{host: "near"},
		HostOf: func(context.Context, string, string) (string, error) { return runsOn, nil },
		Dial: func(ctx context.Context, host string) (net.Conn, error) {
			if host != "far" {
				return nil, fmt.Errorf("no route to %s", host)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	})
	t.Cleanup(router.Close)
	return router
}

func TestConsoleReachesTheGuestWhereverItRuns(t *testing.T) {
	for _, host := range []string{"near", "far"} {
		t.Run(host, func(t *testing.T) {
			stream, err := twoHosts(t, host).Stream(t.Context(), "default", "vm", StreamRequest{Kind: Console})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			greeting := "welcome to " + host + "\n"
			got := make([]byte, len(greeting))
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != greeting {
				t.Fatalf("read %q, %v; want %q", got, err, greeting)
			}
			if _, err := stream.Write([]byte("ls\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(stream, got[:3]); err != nil || string(got[:3]) != "ls\n" {
				t.Fatalf("echo %q, %v", got[:3], err)
			}
		})
	}
}

func TestErrorsKeepTheirMeaningAcrossHosts(t *testing.T) {
	router := twoHosts(t, "far")
	if _, err := router.Stream(t.Context(), "default", "other", StreamRequest{Kind: Console}); !errors.Is(err, fault.NotFound) {
		t.Errorf("console of an unknown instance: %v, want fault.NotFound", err)
	}
	if err := router.Pause(t.Context(), "default", "vm"); err != nil {
		t.Errorf("pause: %v", err)
	}
	if err := router.Pause(t.Context(), "default", "vm"); !errors.Is(err, fault.Conflict) {
		t.Errorf("second pause: %v, want fault.Conflict", err)
	}
	if _, err := router.Users(t.Context(), "default", "vm"); !errors.Is(err, fault.NoGuestAgent) {
		t.Errorf("users: %v, want fault.NoGuestAgent", err)
	}
}

func TestUnreachableHostIsNamed(t *testing.T) {
	router := twoHosts(t, "gone")
	if _, err := router.GuestOSInfo(t.Context(), "default", "vm"); !errors.Is(err, fault.Unreachable) {
		t.Errorf("guest info: %v, want fault.Unreachable", err)
	}
	if _, err := router.Stream(t.Context(), "default", "vm", StreamRequest{Kind: VNC}); !errors.Is(err, fault.Unreachable) {
		t.Errorf("display: %v, want fault.Unreachable", err)
	}
}

func TestAnswersAndOffersCross(t *testing.T) {
	router := twoHosts(t, "far")
	info, err := router.GuestOSInfo(t.Context(), "default", "vm")
	if err != nil || info.Hostname != "guest-on-far" {
		t.Errorf("guest info %+v, %v", info, err)
	}
	for _, host := range []string{"near", "far"} {
		offer, err := router.Offer(t.Context(), host, claims.OfferRequest{Name: "vm"})
		if err != nil || offer.Accepted || offer.Reason != host+" refuses vm" {
			t.Errorf("offer of %s: %+v, %v", host, offer, err)
		}
	}
	if _, err := router.Offer(t.Context(), "gone", claims.OfferRequest{Name: "vm"}); !errors.Is(err, fault.Unreachable) {
		t.Errorf("offer of a host that is gone: %v, want fault.Unreachable", err)
	}
}

// spoiltStream is a console whose first read panics.
type spoiltStream struct{ closed chan struct{} }

func (s spoiltStream) Read([]byte) (int, error)    { panic("spoilt") }
func (s spoiltStream) Write(b []byte) (int, error) { return len(b), nil }
func (s spoiltStream) Close() error {
	select {
	case s.closed <- struct{}{}:
	default:
	}
	return nil
}

type spoiltGuests struct {
	guests
	console spoiltStream
}

func (g *spoiltGuests) Stream(context.Context, string, string, StreamRequest) (io.ReadWriteCloser, error) {
	return g.console, nil
}

// TestPanicEndsOneStream lets the copying of a console panic on its host: the user is cut
// off, the console is closed, and the host serves on.
func TestPanicEndsOneStream(t *testing.T) {
	far := &spoiltGuests{guests{host: "far"}, spoiltStream{make(chan struct{}, 1)}}
	server := httptest.NewUnstartedServer(NewHandler(far, far, slog.New(slog.DiscardHandler)))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	router := NewRouter(Config{
		Self: "near", Local: &guests{host: "near"}, Offerer: &guests{host: "near"},
		HostOf: func(context.Context, string, string) (string, error) { return "far", nil },
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	})
	t.Cleanup(router.Close)
	stream, err := router.Stream(t.Context(), "default", "vm", StreamRequest{Kind: Console})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if rest, err := io.ReadAll(stream); len(rest) > 0 {
		t.Errorf("read %q, %v from a console that panicked", rest, err)
	}
	<-far.console.closed
	if _, err := router.GuestOSInfo(t.Context(), "default", "vm"); err != nil {
		t.Errorf("guest info after the panic: %v", err)
	}
}
