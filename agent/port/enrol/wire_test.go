package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
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
		"featureLevel":  func(r *Request) { r.LowestFeatureLevel, r.FeatureLevel = 3, 2 },
		"csr":           func(r *Request) { r.CSR = r.CSR[:20] },
	} {
		bad := goodRequest(t)
		spoil(&bad)
		var request *fault.Fault
		if _, err := decodeRequest(encode(t, bad)); !errors.As(err, &request) || request.Code != fault.Invalid || request.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestErrorsCrossTheWire: each error arrives as what it was, with what it says.
func TestErrorsCrossTheWire(t *testing.T) {
	now := time.Now().UTC()
	for _, test := range []struct {
		sent error
		code fault.Code
	}{
		{fault.TokenInvalid, fault.TokenInvalid},
		{fmt.Errorf("%w by host host9", fault.TokenUsed), fault.TokenUsed},
		{fmt.Errorf("%w at noon", fault.TokenExpired), fault.TokenExpired},
		{fmt.Errorf("%w: bad signature", fault.BadProof), fault.BadProof},
		{fmt.Errorf("host host2: %w", fault.NoHost), fault.NoHost},
		{fault.New(fault.HostTaken, "host name host2 is taken in this mesh"), fault.HostTaken},
		{clockSkewFault(now, now.Add(time.Hour), time.Minute), fault.ClockSkew},
		{port.CheckLevel(2, "v2", port.NewSpeaker("host2", "v1")), fault.TooOld},
		{badFieldFault("host", errors.New("no")), fault.Invalid},
	} {
		recorder := httptest.NewRecorder()
		fault.Write(recorder, publicFault(test.sent))
		got := memberError("host1", fault.Read(recorder.Result()))
		if got.Error() != test.sent.Error() || !errors.Is(got, test.code) || !isFinal(got) {
			t.Errorf("%s: sent %q, got %q, final %v", test.code, test.sent, got, isFinal(got))
		}
	}
}

// TestStrangersLearnNothing: what is not meant for them stays here, and is worth
// another try.
func TestStrangersLearnNothing(t *testing.T) {
	for _, inner := range []error{errors.New("open /dev/sda: no space"), raftstore.ErrNoLeader, context.DeadlineExceeded} {
		recorder := httptest.NewRecorder()
		fault.Write(recorder, publicFault(inner))
		response := recorder.Result()
		got := memberError("host1", fault.Read(response))
		if !errors.Is(got, ErrUnavailable) || isFinal(got) || strings.Contains(got.Error(), inner.Error()) || response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%v arrives as %v", inner, got)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(encode(f, goodRequest(f)))
	f.Add([]byte(`{"host":"h","csr":"AAAA","clock":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"sans":["","::"],"secret":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeRequest(body)
		var request *fault.Fault
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
