package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/keyring"
	"virtmesh/agent/sealed"
)

// refusing signs nothing, and says why.
type refusing struct {
	identity.Authority
	err error
}

func (r refusing) SignRenewal(context.Context, identity.RenewalProof) (identity.Issued, error) {
	return identity.Issued{}, r.err
}

// ask has a keyring answer a request of a caller that has shown no host's certificate.
func ask(cfg keyring.ServerConfig, method, path, body string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	keyring.NewHandler(cfg).ServeHTTP(answer, httptest.NewRequest(method, path, strings.NewReader(body)))
	return answer
}

// Who has not shown that he votes gets no key, and the refusal is logged.
func TestTheKeyIsForVotersOnly(t *testing.T) {
	var logged bytes.Buffer
	cfg := keyring.ServerConfig{
		Self: "host1", Signer: signer{}, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		CAKeyOf: func(identity.Pin) []byte { return []byte("the key") }, Voters: func() []string { return []string{"host1", "host2"} },
	}
	for _, path := range []string{"/keyring/ca-key", "/keyring/secret-keys"} {
		logged.Reset()
		answer := ask(cfg, http.MethodGet, path, "")
		if err := fault.Read(answer.Result()); !errors.Is(err, fault.Forbidden) || !strings.Contains(logged.String(), "refused") {
			t.Errorf("%s: %v, logged %q", path, err, logged.String())
		}
	}
}

// A host says whether it holds the key of which CA, which recovery bundle it knows and what that
// gives back, and whether it votes.
func TestHolding(t *testing.T) {
	pin, next := identity.Pin{1}, identity.Pin{2}
	both := []string{pin.String(), next.String()}
	note := &identity.BundleMade{Host: "host1", Number: 3}
	for name, c := range map[string]struct {
		held   bool
		voters []string
		want   keyring.Holding
	}{
		"a voter":                  {true, []string{"host1"}, keyring.Holding{Host: "host1", CAPin: pin.String(), CAPins: both, Recoverable: both, Bundle: note, Voter: true}},
		"a voter without the key":  {false, []string{"host1"}, keyring.Holding{Host: "host1", Bundle: note, Voter: true}},
		"a voter of before":        {true, []string{"host2"}, keyring.Holding{Host: "host1", CAPin: pin.String(), CAPins: both, Recoverable: both, Bundle: note}},
		"a host that never voted":  {false, []string{"host2"}, keyring.Holding{Host: "host1", Bundle: note}},
		"a host that knows nobody": {false, nil, keyring.Holding{Host: "host1", Bundle: note}},
	} {
		var held []identity.Pin
		if c.held {
			held = []identity.Pin{pin, next}
		}
		answer := ask(keyring.ServerConfig{
			HeldCAs: func() []identity.Pin { return held },
			Self:    "host1", Signer: signer{}, Voters: func() []string { return c.voters },
			KnownBundle: func() *identity.BundleMade { return note }, Recoverable: func(context.Context) ([]identity.Pin, error) { return held, nil },
			HeldCA: func() (identity.Pin, bool) { return pin, c.held }, SecretKeys: func() []sealed.PrivateKey { return nil },
		}, http.MethodGet, "/keyring/holding", "")
		var got keyring.Holding
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Without the key a host says so in a way that lets who asks go on to the next one; what every
// voter would say ends the search.
func TestWhatASignerSaysIsPassedOn(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		err  error
		want fault.Code
	}{
		"no key":         {"{}", fmt.Errorf("sign: %w", identity.ErrNoCAKey), fault.Unavailable},
		"expelled":       {"{}", fault.New(fault.Expelled, "host2 was removed"), fault.Expelled},
		"not a request":  {"hello", nil, fault.Invalid},
		"a long request": {`{"host":"` + strings.Repeat("a", 1<<20) + `"}`, nil, fault.Invalid},
	} {
		answer := ask(keyring.ServerConfig{Self: "host1", Signer: refusing{err: c.err}}, http.MethodPost, "/keyring/renewal", c.body)
		if err := fault.Read(answer.Result()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
