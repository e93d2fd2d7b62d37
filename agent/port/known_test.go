package port

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// serveStrangers serves requests on one connection until the test ends, and returns a client on it.
// Requests with the token "good" are known.
func serveStrangers(t *testing.T, handler http.HandlerFunc) *http.Client {
	var servers HTTPServers
	l := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	servers.AddStrangers(l, handler, func(r *http.Request) (string, bool) {
		return "system:serviceaccount:a:b", r.Header.Get("Authorization") == "Bearer good"
	})
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() {
		stopped <- servers.Run(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	near, far := net.Pipe()
	l.conns <- calledFrom{far, net.IPv4(192, 0, 2, 1)}
	dialled := false
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		if dialled {
			return nil, errors.New("the connection was closed")
		}
		dialled = true
		return near, nil
	}}}
}

func getWith(t *testing.T, client *http.Client, token string) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://host1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// A program that shows a token asks as often as it likes, and its watches last.
func TestKnownClientsAreNoStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answerAfter := time.Duration(0)
		client := serveStrangers(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "well")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(answerAfter)
			_, _ = io.WriteString(w, " done")
		})
		start := time.Now()
		for range strangerBurst + 20*strangerRate {
			if body, err := getWith(t, client, "good"); body != "well done" || err != nil {
				t.Fatalf("%q, %v", body, err)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("the requests of a known client took %v", took)
		}
		answerAfter = 10 * strangerTimeout
		if body, err := getWith(t, client, "good"); body != "well done" || err != nil {
			t.Errorf("a request that lasts: %q, %v", body, err)
		}
	})
}

// Who shows a token that is not good is a stranger: his requests have a pace and an end. If his
// connection was a known client's, it ends.
func TestUnknownTokensAreStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := serveStrangers(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") })
		start := time.Now()
		for range strangerBurst + 4*strangerRate {
			if _, err := getWith(t, client, "bad"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 4*time.Second {
			t.Errorf("%d requests took %v, want 4 s", strangerBurst+4*strangerRate, took)
		}
		for _, token := range []string{"good", "bad"} {
			if _, err := getWith(t, client, token); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := getWith(t, client, "bad"); err == nil {
			t.Error("the connection of a client that is not known any more goes on")
		}
	})
}

// Who has not shown a good token is asked for it at the pace of strangers, also if he does not wait
// for the answers: to judge a token costs something.
func TestStrangersAreAskedAtTheirPace(t *testing.T) {
	asked := 0
	handler := welcomeKnown(func(*http.Request) (string, bool) { asked++; return "", false }, &seats{},
		http.NotFoundHandler(), paceRequests(http.NotFoundHandler()))
	ctx, gone := context.WithCancel(withStranger(t.Context(), nil))
	for range strangerBurst {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	}
	gone()
	for range 100 {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	}
	if asked != strangerBurst {
		t.Errorf("asked about %d requests, want %d", asked, strangerBurst)
	}
}
