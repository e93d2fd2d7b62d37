package guests

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/port"
)

// reach returns a router on host "near" for instances on "far", which handler serves.
func reach(t *testing.T, local Instances, runsOn string, handler http.Handler) *Router {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	router := NewRouter(Config{
		Self: "near", Local: local,
		HostOf: func(context.Context, string, string) (string, error) { return runsOn, nil },
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	})
	t.Cleanup(router.Close)
	return router
}

// Every act reaches the host of the guest with what was asked for, and its error comes back.
func TestActsReachTheGuestWhereverItRuns(t *testing.T) {
	for _, host := range []string{"near", "far"} {
		t.Run(host, func(t *testing.T) {
			g := &guests{host: host}
			router := reach(t, g, host, NewHandler(g, g, slog.New(slog.DiscardHandler)))
			for _, name := range []string{"vm", "other"} {
				picture, pictureErr := router.Screenshot(t.Context(), "default", name, true)
				for what, err := range map[string]error{
					"reboot":   router.Reboot(t.Context(), "default", name),
					"reset":    router.Reset(t.Context(), "default", name),
					"freeze":   router.Freeze(t.Context(), "default", name, 90*time.Second),
					"unfreeze": router.Unfreeze(t.Context(), "default", name),
					"picture":  pictureErr,
				} {
					if name == "vm" && err != nil || name == "other" && !errors.Is(err, fault.NotFound) {
						t.Errorf("%s of %s: %v", what, name, err)
					}
				}
				if name == "vm" && string(picture) != "the display of "+host {
					t.Errorf("the picture is %q", picture)
				}
				if want := []string{"freeze for 1m30s", "picture, woken true", "reboot", "reset", "unfreeze"}; !slices.Equal(slices.Sorted(slices.Values(g.acts)), want) {
					t.Errorf("%s was done, want %s", g.acts, want)
				}
				g.acts = nil
			}
			if _, err := router.Stream(t.Context(), "default", "vm", StreamRequest{Kind: VNC, Preserve: true}); !errors.Is(err, fault.Conflict) {
				t.Errorf("a display that somebody else has: %v", err)
			}
		})
	}
}

// What is sent to a port arrives as it is, and packets stay apart.
func TestForwardedPorts(t *testing.T) {
	for _, host := range []string{"near", "far"} {
		for _, protocol := range []string{TCP, UDP} {
			t.Run(host+" "+protocol, func(t *testing.T) {
				g := &guests{host: host}
				router := reach(t, g, host, NewHandler(g, g, slog.New(slog.DiscardHandler)))
				stream, err := router.Stream(t.Context(), "default", "vm", StreamRequest{Kind: Forward, Protocol: protocol, Port: 53})
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				if want := []string{protocol + " port 53"}; !slices.Equal(g.acts, want) {
					t.Errorf("opened %s, want %s", g.acts, want)
				}
				for _, size := range []int{1, 1400, maxPacket} {
					sent, got := bytes.Repeat([]byte{byte(size)}, size), make([]byte, maxPacket)
					go func() { _, _ = stream.Write(sent) }()
					var n int
					if protocol == UDP {
						n, err = stream.Read(got)
					} else {
						n, err = io.ReadFull(stream, got[:size])
					}
					if err != nil || !bytes.Equal(got[:n], sent) {
						t.Errorf("%d bytes came back as %d, %v", size, n, err)
					}
				}
			})
		}
	}
	g := &guests{host: "far"}
	router := reach(t, g, "far", NewHandler(g, g, slog.New(slog.DiscardHandler)))
	if _, err := router.call(t.Context(), "far", http.MethodGet, "/instances/default/vm/forward/tcp/65536", nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("a port that there is not: %v", err)
	}
	if err := router.act(t.Context(), "default", "vm", "freeze?limit=-1s", nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("a limit that is negative: %v", err)
	}
}

// A guest on a host of an earlier version is not said to be missing: who asks for something
// that the version does not know learns where to install a newer one.
func TestAnOlderHostIsNamed(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /instances/{namespace}/{name}/{stream}", http.NotFound)
	older := port.NewSpeaker("far", "0.4.0")
	router := reach(t, &guests{}, "far", port.MeetCallers(func() port.Speaker { return older }, slog.New(slog.DiscardHandler), mux))
	_, pictureErr := router.Screenshot(t.Context(), "default", "vm", false)
	_, forwardErr := router.Stream(t.Context(), "default", "vm", StreamRequest{Kind: Forward, Protocol: TCP, Port: 22})
	for what, err := range map[string]error{
		"reset":   router.Reset(t.Context(), "default", "vm"),
		"freeze":  router.Freeze(t.Context(), "default", "vm", 0),
		"picture": pictureErr, "forward": forwardErr,
	} {
		if !errors.Is(err, fault.NotImplemented) || !strings.Contains(err.Error(), "host far (version 0.4.0)") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPacketsThatDoNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		near, far := newPacketStream(a), newPacketStream(b)
		defer near.Close()
		if _, err := near.Write(make([]byte, maxPacket+1)); err == nil {
			t.Error("a packet that is too long was sent")
		}
		go func() {
			_, _ = near.Write([]byte("longer than the buffer"))
			_, _ = near.Write([]byte("next"))
			_, _ = a.Write([]byte{0, 9, 'c', 'u', 't'})
			near.Close()
		}()
		short := make([]byte, 6)
		for _, want := range []string{"longer", "next"} {
			if n, err := far.Read(short); err != nil || string(short[:n]) != want {
				t.Errorf("read %q, %v", short[:n], err)
			}
		}
		if _, err := far.Read(make([]byte, 20)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a packet that is cut: %v", err)
		}
	})
}
