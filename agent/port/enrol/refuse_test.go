package enrol_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
)

// TestJoinRefused: each reason has its own error, in one line, and leaves nothing on
// either side.
func TestJoinRefused(t *testing.T) {
	m := newMember(t, func(c *enrol.ServerConfig) { c.FeatureLevel, c.Version = func() uint32 { return 3 }, "v3.0.0" })
	used := m.options(t)
	used.Host = "host9"
	if err := enrol.Join(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	expired := m.options(t).Token
	expire(t, m, expired)
	foreign := newMember(t)

	var pin *enrol.PinError
	tests := map[string]struct {
		spoil func(*enrol.Options)
		want  func(error) bool
		text  string
	}{
		"wrong secret":    {func(o *enrol.Options) { o.Token.Secret[0] ^= 1 }, is(fault.TokenInvalid), "not valid in this mesh"},
		"unknown token":   {func(o *enrol.Options) { o.Token.ID = "aaaaaaaa" }, is(fault.TokenInvalid), "not valid in this mesh"},
		"used token":      {func(o *enrol.Options) { o.Token = used.Token }, is(fault.TokenUsed), "has been used by host host9"},
		"expired token":   {func(o *enrol.Options) { o.Token = expired }, is(fault.TokenExpired), "has expired at 20"},
		"clock behind":    {func(o *enrol.Options) { o.Now = shifted(-45 * time.Second) }, is(fault.ClockSkew), "is 45s behind the mesh's"},
		"clock a year on": {func(o *enrol.Options) { o.Now = shifted(365 * 24 * time.Hour) }, is(fault.ClockSkew), "is 8760h0m0s ahead of the mesh's"},
		"name taken":      {func(o *enrol.Options) { o.Host = "host1" }, is(fault.HostTaken), "host name host1 is taken"},
		"old version":     {func(o *enrol.Options) { o.Levels.Highest = 2 }, is(fault.TooOld), "this mesh is at feature level 3, and host host3 (version v1.2.3) knows feature level 2; install version v3.0.0 or newer there"},
		"new version":     {func(o *enrol.Options) { o.Levels = raftstore.LevelRange{Lowest: 4, Highest: 6} }, is(fault.TooNew), "this mesh is at feature level 3, and host host3 (version v1.2.3) knows feature levels 4 to 6; raise the mesh first"},
		"another mesh":    {func(o *enrol.Options) { o.Addresses = []string{foreign.port.Addr().String()} }, as(&pin), "is not a host of the mesh that the token is for"},
		"bad name":        {func(o *enrol.Options) { o.Host = "Host" }, isNot(enrol.ErrUnavailable), "only lower-case"},
		"bad address":     {func(o *enrol.Options) { o.MeshAddress = "10.0.0.2" }, isNot(enrol.ErrUnavailable), "mesh address"},
		"no member":       {func(o *enrol.Options) { o.Addresses = nil }, isNot(enrol.ErrUnavailable), "address of a member is missing"},
	}
	before := m.hosts(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := m.options(t)
			o.Host = "host3"
			test.spoil(&o)
			err := enrol.Join(t.Context(), o)
			if err == nil || !test.want(err) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, test.text)
			}
			if done, err := identity.Initialised(o.Dir); done || err != nil {
				t.Errorf("the host is a member: %v, %v", done, err)
			}
			if after := m.hosts(t); !slices.Equal(before, after) {
				t.Errorf("hosts %v became %v", before, after)
			}
		})
	}
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func isNot(target error) func(error) bool {
	return func(err error) bool { return !errors.Is(err, target) }
}

func as[E error](target *E) func(error) bool {
	return func(err error) bool { return errors.As(err, target) }
}

func shifted(by time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(by) }
}

// expire moves the end of a token into the past.
func expire(t *testing.T, m *member, token identity.Token) {
	t.Helper()
	rec, _, err := m.Store.Get(t.Context(), identity.TokenKey(token.ID), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var value identity.TokenRecord
	if err := json.Unmarshal(rec.Value, &value); err != nil {
		t.Fatal(err)
	}
	value.Expires = time.Now().Add(-time.Second)
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: rec.Key, Value: data}}}); err != nil {
		t.Fatal(err)
	}
}

// TestTokenStaysHome: a host of another mesh sees neither the token nor any request.
func TestTokenStaysHome(t *testing.T) {
	m := newMember(t)
	var asked atomic.Int64
	foreign := openPort(t, identitytest.NewMesh(t).First, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	o := m.options(t)
	o.Addresses = []string{foreign.Addr().String()}
	var pin *enrol.PinError
	if err := enrol.Join(t.Context(), o); !errors.As(err, &pin) {
		t.Errorf("join: %v", err)
	}
	if asked.Load() != 0 {
		t.Error("the stranger was asked")
	}
}

// TestForgedChain: a stranger that shows the pinned CA behind a certificate of his own.
func TestForgedChain(t *testing.T) {
	m := newMember(t)
	stranger := identitytest.NewMesh(t).First.Certificate()
	forged := *stranger
	forged.Certificate = [][]byte{stranger.Certificate[0], m.CA.Certificate().Raw}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{forged}, NextProtos: []string{port.ProtoJoin}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	o := m.options(t)
	o.Addresses = []string{l.Addr().String()}
	var pin *enrol.PinError
	if err := enrol.Join(t.Context(), o); !errors.As(err, &pin) || strings.Contains(err.Error(), "\n") {
		t.Errorf("join: %v", err)
	}
	l.Close()
	<-done
}

// TestServerExpired: the clocks agree, so it is the server that is late.
func TestServerExpired(t *testing.T) {
	m := newMember(t)
	late := serve(t, m.Mesh, m.Host(t, "host5", -time.Second))
	o := m.options(t)
	o.Addresses = []string{late.port.Addr().String()}
	if err := enrol.Join(t.Context(), o); !errors.Is(err, enrol.ErrServerCertificate) {
		t.Errorf("join: %v", err)
	}
	o.Addresses = append(o.Addresses, m.port.Addr().String())
	if err := enrol.Join(t.Context(), o); err != nil {
		t.Errorf("the other member was not asked: %v", err)
	}
}
