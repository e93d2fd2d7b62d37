package guests

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
)

// A host that does not know the mesh's feature level any more gets no offer and no console
// from the others, and is told what to install; one that knows it is served.
func TestHostsBelowTheLevelAreNotServed(t *testing.T) {
	far := &guests{host: "far"}
	server := port.NewSpeaker("far", "v2")
	server.Levels, server.Mesh = raftstore.LevelRange{Lowest: 1, Highest: 2}, 2
	log := slog.New(slog.DiscardHandler)
	web := httptest.NewServer(port.MeetCallers(func() port.Speaker { return server }, log, NewHandler(far, far, log)))
	t.Cleanup(web.Close)
	for highest, served := range map[uint32]bool{1: false, 2: true} {
		self := port.NewSpeaker("near", "v1")
		self.Levels = raftstore.LevelRange{Lowest: 1, Highest: highest}
		router := NewRouter(Config{
			Self: "near", Speaker: func() port.Speaker { return self },
			HostOf: func(context.Context, string, string) (string, error) { return "far", nil },
			Dial: func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", web.Listener.Addr().String())
			},
		})
		t.Cleanup(router.Close)
		_, offerErr := router.Offer(t.Context(), "far", claims.OfferRequest{Name: "vm"})
		stream, streamErr := router.Stream(t.Context(), "default", "vm", StreamRequest{Kind: Console})
		if streamErr == nil {
			stream.Close()
		}
		for what, err := range map[string]error{"offer": offerErr, "stream": streamErr} {
			if served && err != nil {
				t.Errorf("%s for a host that knows level %d: %v", what, highest, err)
			}
			if !served && (!errors.Is(err, fault.TooOld) || !strings.Contains(err.Error(), "install version v2 or newer")) {
				t.Errorf("%s for a host that knows level %d: %v", what, highest, err)
			}
		}
	}
}
