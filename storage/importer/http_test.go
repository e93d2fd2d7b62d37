package importer

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"virtmesh/storage/fetch"
)

// anywhere lets tests fetch from this machine.
func anywhere(netip.Addr) error { return nil }

// A server leads an import neither to closed addresses nor away from TLS, and another host
// gets no credentials.
func TestRedirects(t *testing.T) {
	want := disk(100_000)
	var leaked string
	other := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked += r.Header.Get("Authorization") + r.Header.Get("X-Token")
		w.Write(want)
	})
	plain, private := httptest.NewServer(other), httptest.NewTLSServer(other)
	defer plain.Close()
	defer private.Close()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{"/plain": plain.URL, "/private": private.URL}[r.URL.Path]
		http.Redirect(w, r, to+"/?signature=hunter2", http.StatusFound)
	}))
	defer srv.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	closed := func(addr netip.Addr) error { return &fetch.ClosedError{Addr: addr, Because: "closed"} }
	for name, c := range map[string]struct {
		path  string
		check fetch.Check
		want  error
	}{
		"to another host":       {"/private", anywhere, nil},
		"to one without TLS":    {"/plain", anywhere, ErrSource},
		"closed":                {"/private", closed, ErrSource},
		"this host, by default": {"/private", nil, ErrSource},
	} {
		r := Request{URL: srv.URL + c.path, CA: ca, Username: "me", Password: "secret", Header: http.Header{"x-token": {"token"}}, Check: c.check}
		_, err := HTTP(t.Context(), r, target(t), limits)
		if !errors.Is(err, c.want) || leaked != "" || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want %v; the other host got %q", name, err, c.want, leaked)
		}
		if judged := new(fetch.ClosedError); (name == "closed" || c.check == nil) && !errors.As(err, &judged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
