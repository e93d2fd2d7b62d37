package membership

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// newRecord is that of host1 of a new mesh, whose configuration has another address than
// the day it joined.
func newRecord(t *testing.T, m *identitytest.Mesh) record {
	t.Helper()
	config := DefaultConfig()
	config.Name, config.Advertise = "host1", "10.0.0.42"
	cfg := identity.DefaultRenewerConfig()
	cfg.Identity, cfg.Issuers = m.First, []identity.Issuer{identity.NewSigner(m.Store, 0).For(m.First.Node())}
	renewer, err := identity.NewRenewer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(renewer.Shutdown)
	return record{
		hosts: identity.NewHosts(m.Store), identity: m.First, config: config,
		version: "v2", level: 7, meshLevel: func() uint32 { return level.Highest }, renew: renewer.Renew,
		askOthers: func(context.Context) error { return nil }, log: slog.New(slog.DiscardHandler),
	}
}

func TestChangedAddressReachesRecordAndCertificate(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	r := newRecord(t, m)
	if err := m.First.Leaf().VerifyHostname("10.0.0.42"); err == nil {
		t.Fatal("the certificate has the new address already, so the test tests nothing")
	}
	if err := r.updateOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := r.hosts.Get(t.Context(), "host1", raftstore.ReadOptions{})
	if err != nil || got.MeshAddress != "10.0.0.42:7443" || got.GossipAddress != "10.0.0.42:7946" || got.Version != "v2" || got.FeatureLevel != 7 || got.Node() != m.First.Node() {
		t.Errorf("record %+v, %v", got, err)
	}
	if err := m.First.Leaf().VerifyHostname("10.0.0.42"); err != nil {
		t.Errorf("API clients cannot verify the host: %v", err)
	}
	commits, leaf := m.Store.Commits(), m.First.Leaf()
	if err := r.updateOnce(t.Context()); err != nil || m.Store.Commits() != commits || m.First.Leaf() != leaf {
		t.Errorf("a start without a change: %d commits, renewed %v, %v", m.Store.Commits()-commits, m.First.Leaf() != leaf, err)
	}
}

// TestCertificateFollowsAfterAnInterruption: the record was changed and the agent stopped
// before the certificate was.
func TestCertificateFollowsAfterAnInterruption(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	r := newRecord(t, m)
	renew := r.renew
	r.renew = func(context.Context) error { return context.Canceled }
	if err := r.updateOnce(t.Context()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.renew = renew
	if err := r.updateOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.First.Leaf().VerifyHostname("10.0.0.42"); err != nil {
		t.Error(err)
	}
}

func TestRecordWaitsForTheMesh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		r := newRecord(t, m)
		start := time.Now()
		m.Store.BeforeRead = func(raftstore.ReadOptions) error {
			if time.Since(start) < 10*time.Minute {
				return raftstore.ErrNoLeader
			}
			return nil
		}
		r.keepTrying(t.Context())
		if took := time.Since(start); took > 10*time.Minute+maxRecordPause {
			t.Errorf("it took %s", took)
		}
		if err := m.First.Leaf().VerifyHostname("10.0.0.42"); err != nil {
			t.Error(err)
		}
	})
}

// TestRecordLearnsOfTheRemoval: the replica of a machine that was removed while it was cut
// off never has a leader again; the others say why.
func TestRecordLearnsOfTheRemoval(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	r := newRecord(t, m)
	m.Store.BeforeRead = func(raftstore.ReadOptions) error { return raftstore.ErrNoLeader }
	r.askOthers = func(context.Context) error { return fault.Expelled }
	var out bytes.Buffer
	r.log = slog.New(slog.NewTextHandler(&out, nil))
	r.keepTrying(t.Context()) // ends by itself
	if !strings.Contains(out.String(), fault.Expelled.Error()) {
		t.Errorf("log: %s", out.String())
	}
}

// TestRemovedMachineChangesNoRecord: its name belongs to another.
func TestRemovedMachineChangesNoRecord(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	r := newRecord(t, m)
	if err := r.hosts.Expel(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	token, _, err := identity.NewTokens(m.Store).Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewSigner(m.Store, 0).Admit(t.Context(), identity.Candidate{
		TokenID: token.ID, Secret: token.Secret[:], Key: &key.PublicKey,
		Host: identity.HostRecord{Name: "host1", MeshAddress: "10.0.0.1:7443", GossipAddress: "10.0.0.1:7946"},
	}); err != nil {
		t.Fatal(err)
	}
	commits := m.Store.Commits()
	r.keepTrying(t.Context()) // ends by itself
	if m.Store.Commits() != commits {
		t.Error("a machine changed the record of another")
	}
}

// The record follows the addresses of the host's interfaces, and nothing is written while
// they stay the same.
func TestRecordFollowsTheInterfaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		r := newRecord(t, m)
		var has atomic.Pointer[[]netip.Addr]
		has.Store(&[]netip.Addr{netip.MustParseAddr("10.0.0.42")})
		r.interfaces = func() ([]netip.Addr, error) { return *has.Load(), nil }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.followInterfaces(ctx)
		}()
		synctest.Wait()
		commits := m.Store.Commits()
		time.Sleep(time.Hour)
		if m.Store.Commits() != commits {
			t.Errorf("%d writes without a change", m.Store.Commits()-commits)
		}
		has.Store(&[]netip.Addr{netip.MustParseAddr("10.0.0.42"), netip.MustParseAddr("10.77.0.1")})
		time.Sleep(2 * addressesEvery)
		cancel()
		<-done
		got, err := r.hosts.Get(t.Context(), "host1", raftstore.ReadOptions{})
		if err != nil || !slices.Equal(got.Addresses, *has.Load()) {
			t.Errorf("record %v, %v", got.Addresses, err)
		}
	})
}

// At the level from which on all hosts keep their keys, the record says once which key this
// host has.
func TestRecordNamesTheKeyFromItsLevelOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		r := newRecord(t, m)
		// An earlier version has made a new key since the host joined.
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		chain, err := m.CA.IssueNode(&key.PublicKey, m.First.Node(), r.config.certificateNames(), identity.DefaultNodeLifetime)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.First.Install(key, identity.Issued{Chain: chain, CABundle: m.First.CABundle()}); err != nil {
			t.Fatal(err)
		}
		var meshLevel atomic.Uint32
		meshLevel.Store(level.Apart - 1)
		r.meshLevel = meshLevel.Load
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.followInterfaces(ctx)
		}()
		defer func() {
			cancel()
			<-done
		}()
		time.Sleep(time.Hour)
		got, err := r.hosts.Get(t.Context(), "host1", raftstore.ReadOptions{})
		if err != nil || got.KeyKept {
			t.Fatalf("below the level, the record %+v, %v", got, err)
		}
		meshLevel.Store(level.Apart)
		commits := m.Store.Commits()
		time.Sleep(time.Hour)
		got, err = r.hosts.Get(t.Context(), "host1", raftstore.ReadOptions{})
		if err != nil || !got.KeyKept || got.KeyPin != m.First.KeyPin().String() || m.Store.Commits() != commits+1 {
			t.Errorf("after %d writes, the record %+v, %v", m.Store.Commits()-commits, got, err)
		}
		if err := r.hosts.Admit(m.First.Node(), m.First.KeyPin()); err != nil {
			t.Error(err)
		}
	})
}

// A host whose identity folder is an older one says what is wrong, and changes nothing.
func TestRecordOfAnotherKeyStays(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	r := newRecord(t, m)
	if err := r.hosts.Update(t.Context(), m.First.Node(), func(rec *identity.HostRecord) { rec.KeyPin, rec.KeyKept = "another", true }); err != nil {
		t.Fatal(err)
	}
	commits := m.Store.Commits()
	if err := r.updateOnce(t.Context()); !errors.Is(err, identity.ErrOtherKey) || m.Store.Commits() != commits {
		t.Errorf("%d writes, %v", m.Store.Commits()-commits, err)
	}
}
