package enrol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
)

func goodRequest(t testing.TB) Request {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewCSR(key, "host2")
	if err != nil {
		t.Fatal(err)
	}
	return Request{
		TokenID: "aaaaaaaa", Secret: make([]byte, 16), CSR: csr, Host: "host2",
		MeshAddress: "10.0.0.2:7443", GossipAddress: "10.0.0.2:7946", Clock: time.Now(), Version: "v1",
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecodeRequest(t *testing.T) {
	got, err := decodeRequest(encode(t, goodRequest(t)))
	if err != nil || got.Host != "host2" {
		t.Fatalf("%+v, %v", got, err)
	}
	for field, spoil := range map[string]func(*Request){
		"host":          func(r *Request) { r.Host = "../etc" },
		"meshAddress":   func(r *Request) { r.MeshAddress = "" },
		"gossipAddress": func(r *Request) { r.GossipAddress = "0.0.0.0:1" },
		"sans":          func(r *Request) { r.SANs = []string{"*"} },
		"clock":         func(r *Request) { r.Clock = time.Time{} },
		"version":       func(r *Request) { r.Version = "v1\n" },
		"csr":           func(r *Request) { r.CSR = r.CSR[:20] },
	} {
		bad := goodRequest(t)
		spoil(&bad)
		var request *RequestError
		if _, err := decodeRequest(encode(t, bad)); !errors.As(err, &request) || request.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestErrorsCrossTheWire: each error arrives as what it was, with its details.
func TestErrorsCrossTheWire(t *testing.T) {
	now := time.Now().UTC()
	for _, sent := range []error{
		identity.ErrTokenInvalid,
		fmt.Errorf("admit: %w by host host9", identity.ErrTokenUsed),
		fmt.Errorf("%w at noon", identity.ErrTokenExpired),
		fmt.Errorf("%w: bad signature", identity.ErrProof),
		fmt.Errorf("host host2: %w", identity.ErrNoHost),
		&identity.HostTakenError{Host: "host2"},
		&ClockSkewError{Joining: now, Mesh: now.Add(time.Hour), Limit: time.Minute},
		&VersionError{Version: "v1", Level: 1, Want: 2, MeshVersion: "v2"},
		&RequestError{Field: "host", Reason: "no"},
	} {
		_, wire := toWire(fmt.Errorf("layer: %w", sent))
		wire.Message = sent.Error()
		var arrived wireError
		if err := json.Unmarshal(encode(t, wire), &arrived); err != nil {
			t.Fatal(err)
		}
		got := arrived.err()
		if got.Error() != sent.Error() {
			t.Errorf("%T: sent %q, got %q", sent, sent, got)
		}
		if _, again := toWire(got); again.Code != wire.Code {
			t.Errorf("%T: code %s became %s", sent, wire.Code, again.Code)
		}
		if !final(got) {
			t.Errorf("%T: worth another try?", sent)
		}
	}
	for _, code := range []string{"", "Unavailable", "SomethingNew", codeClockSkew} {
		if err := (wireError{Code: code}).err(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("code %q without details: %v", code, err)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(encode(f, goodRequest(f)))
	f.Add([]byte(`{"host":"h","csr":"AAAA","clock":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"sans":["","::"],"secret":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeRequest(body)
		var request *RequestError
		if err != nil {
			if !errors.As(err, &request) || len(err.Error()) > 1000 {
				t.Errorf("error %v", err)
			}
			return
		}
		if strings.ContainsAny(req.Host, "/\n") || req.Clock.IsZero() {
			t.Errorf("passed: %+v", req)
		}
		if _, err := decodeRequest(encode(t, req)); err != nil {
			t.Errorf("passed once, not twice: %v", err)
		}
	})
}

func FuzzWireError(f *testing.F) {
	f.Add([]byte(`{"code":"ClockSkew","skew":{"limit":1}}`))
	f.Add([]byte(`{"code":"TokenUsed","message":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var w wireError
		if decodeJSON(bytes.NewReader(body), maxRequest, &w) != nil {
			return
		}
		if err := w.err(); err == nil || err.Error() == "" {
			t.Errorf("no error from %s", body)
		}
	})
}
