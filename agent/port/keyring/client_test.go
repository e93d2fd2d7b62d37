package keyring_test

import (
	"context"
	"encoding/json"
	"errors"
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
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/port/keyring"
	"virtmesh/agent/sealed"
)

// signer signs every renewal, as a voter that holds the key does.
type signer struct{ identity.Authority }

func (signer) SignRenewal(context.Context, identity.RenewalProof) (identity.Issued, error) {
	return identity.Issued{Chain: []byte("signed")}, nil
}

// pipes is a listener whose connections are made by Dial.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error { close(p.done); return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{} }

// wire connects to the hosts that are on; calls to others are never answered.
func wire(t *testing.T, on ...string) func(context.Context, string) (net.Conn, error) {
	handlers := map[string]http.Handler{}
	for _, name := range on {
		handlers[name] = keyring.NewHandler(keyring.ServerConfig{Self: name, Signer: signer{}})
	}
	return wireTo(t, handlers)
}

// wireTo is wire to hosts that answer in ways of their own.
func wireTo(t *testing.T, handlers map[string]http.Handler) func(context.Context, string) (net.Conn, error) {
	hosts := map[string]pipes{}
	for name, handler := range handlers {
		p := pipes{make(chan net.Conn), make(chan struct{})}
		hosts[name] = p
		server := &http.Server{Handler: handler}
		stopped := make(chan error)
		go func() { stopped <- server.Serve(p) }()
		t.Cleanup(func() { _ = server.Close(); <-stopped })
	}
	return func(ctx context.Context, host string) (net.Conn, error) {
		p, on := hosts[host]
		if !on {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		near, far := net.Pipe()
		p.conns <- far
		return near, nil
	}
}

// Most hosts that ask have five seconds. As long as one voter is on, they get their answer,
// whether gossip knows who is on or not.
func TestVotersThatAreOffAreNoHindrance(t *testing.T) {
	for name, test := range map[string]struct {
		heard, on []string
		within    time.Duration
		fails     bool
	}{
		"gossip knows who is on":          {heard: []string{"self", "v3"}, on: []string{"v3"}, within: 0},
		"gossip hears nobody":             {on: []string{"v3"}, within: 4 * time.Second},
		"gossip hears one that hangs":     {heard: []string{"v2", "v1"}, on: []string{"v1"}, within: 0},
		"no voter is on, nobody is heard": {within: 5 * time.Second, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := keyring.NewClient(keyring.ClientConfig{
					Self: "self", Dial: wire(t, test.on...),
					Voters:  func() []string { return []string{"self", "v1", "v2", "v3"} },
					Heard:   func() []string { return test.heard },
					Speaker: func() port.Speaker { return port.NewSpeaker("self", "test") },
				})
				start := time.Now()
				issued, err := client.SignRenewal(t.Context(), identity.RenewalProof{})
				if test.fails != errors.Is(err, fault.Unavailable) || (string(issued.Chain) == "signed") == test.fails || time.Since(start) > test.within {
					t.Errorf("after %s: %q, %v", time.Since(start), issued.Chain, err)
				}
				time.Sleep(time.Minute) // what still connects must end by itself
			})
		})
	}
}

// A voter whose copy of the state is behind does not know a key yet. That nobody opens a lock is
// true once all voters that answer, or most of the voters, have said so; otherwise it is not known.
func TestOneVoterDoesNotSayThatNobodyOpens(t *testing.T) {
	opens := func(objects ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var request struct{ Locks []sealed.Lock }
			if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
				t.Error(err)
			}
			keys := make([][]byte, len(request.Locks))
			for i, lock := range request.Locks {
				if slices.Contains(objects, lock.Object) {
					keys[i] = []byte("opens " + lock.Object)
				}
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"dataKeys": keys})
		})
	}
	for name, c := range map[string]struct {
		on     map[string]http.Handler
		opened []string
		fails  bool
	}{
		"the second knows more":          {on: map[string]http.Handler{"v1": opens("a"), "v2": opens("b", "c"), "v3": opens()}, opened: []string{"a", "b", "c"}},
		"all answer, none opens c":       {on: map[string]http.Handler{"v1": opens("a"), "v2": opens("b"), "v3": opens()}, opened: []string{"a", "b"}},
		"two answer, none opens c":       {on: map[string]http.Handler{"v1": opens("a", "b"), "v3": opens()}, opened: []string{"a", "b"}},
		"one answers, and opens all":     {on: map[string]http.Handler{"v2": opens("a", "b", "c")}, opened: []string{"a", "b", "c"}},
		"one answers, and does not know": {on: map[string]http.Handler{"v2": opens("a", "b")}, fails: true},
		"one answers with too few": {on: map[string]http.Handler{"v2": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"dataKeys":["YQ=="]}`))
		})}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := keyring.NewClient(keyring.ClientConfig{
					Self: "self", Dial: wireTo(t, c.on),
					Voters: func() []string { return []string{"v1", "v2", "v3"} }, Heard: func() []string { return nil },
					Speaker: func() port.Speaker { return port.NewSpeaker("self", "test") },
				})
				objects := []string{"a", "b", "c"}
				keys, err := client.OpenLocks(t.Context(), []sealed.Lock{{Object: "a"}, {Object: "b"}, {Object: "c"}})
				if c.fails {
					if !errors.Is(err, fault.Unavailable) || keys != nil {
						t.Errorf("%q, %v", keys, err)
					}
				} else if err != nil {
					t.Error(err)
				}
				for i := range keys {
					if opened := string(keys[i]) == "opens "+objects[i]; opened != slices.Contains(c.opened, objects[i]) {
						t.Errorf("%s: %q", objects[i], keys[i])
					}
				}
				time.Sleep(time.Minute) // what still connects must end by itself
			})
		})
	}
}

// Who has a certificate and no record gets no gossip keys: with the CA's key one makes oneself
// a certificate under any new name.
func TestGossipKeysAreForRecordedHosts(t *testing.T) {
	recorded := false
	handler := keyring.NewHandler(keyring.ServerConfig{
		Self: "v1", Signer: signer{}, Logger: slog.New(slog.DiscardHandler), Recorded: func(string) bool { return recorded },
		GossipKeys: func() identity.GossipKeyring { return identity.GossipKeyring{Generation: 7} },
	})
	for _, want := range []int{http.StatusForbidden, http.StatusOK} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/keyring/gossip", nil))
		if answer.Code != want || strings.Contains(answer.Body.String(), `"generation":7`) != recorded {
			t.Errorf("recorded %v: %d, %s", recorded, answer.Code, answer.Body)
		}
		recorded = true
	}
}
