package membership

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// answering is how a host at an address answers: its name, what it says, or an error.
type answering struct {
	name     string
	expelled bool
	err      error
	// otherID and otherKey: it does not have those of the host of that name, which is known
	// not to keep its key if keyless is set.
	otherID, otherKey, keyless bool
}

// pinOf is the key of a host of a name.
func pinOf(name string) identity.Pin { return sha256.Sum256([]byte(name)) }

// verdictOf is the verdict of hosts whose name is their address.
func verdictOf(hosts map[string]answering) verdict {
	return verdict{
		others: func() []identity.Seed {
			var seeds []identity.Seed
			for address, a := range hosts {
				known := identity.HostRecord{Name: address, ID: address, MeshAddress: address, KeyPin: pinOf(address).String(), KeyKept: !a.keyless}
				seeds = append(seeds, known.Seed())
			}
			return seeds
		},
		ask: func(_ context.Context, address string) (enrol.Standing, error) {
			a := hosts[address]
			told := enrol.Standing{By: identity.Node{Name: a.name, ID: a.name}, Key: pinOf(a.name), Expelled: a.expelled}
			if a.otherID {
				told.By.ID = "another"
			}
			if a.otherKey {
				told.Key = pinOf("another")
			}
			return told, a.err
		},
	}
}

// Two hosts of the mesh, or the only other one, make it certain; nothing else does.
func TestWhatMakesAnExpulsionCertain(t *testing.T) {
	t.Parallel()
	silent := answering{err: errors.New("connection refused")}
	says := func(name string, expelled bool) answering { return answering{name: name, expelled: expelled} }
	for name, trial := range map[string]struct {
		hosts map[string]answering
		want  bool
	}{
		"nobody else is known":               {map[string]answering{}, false},
		"the only other says so":             {map[string]answering{"a": says("a", true)}, true},
		"the only other is silent":           {map[string]answering{"a": silent}, false},
		"two of two":                         {map[string]answering{"a": says("a", true), "b": says("b", true)}, true},
		"one of two, the other is silent":    {map[string]answering{"a": says("a", true), "b": silent}, false},
		"two of three, one is silent":        {map[string]answering{"a": says("a", true), "b": says("b", true), "c": silent}, true},
		"two, and one says the opposite":     {map[string]answering{"a": says("a", true), "b": says("b", true), "c": says("c", false)}, false},
		"one host at two addresses":          {map[string]answering{"a": says("a", true), "b": says("a", true)}, false},
		"hosts that were not known there":    {map[string]answering{"a": says("x", true), "b": says("y", true)}, false},
		"all are silent":                     {map[string]answering{"a": silent, "b": silent, "c": silent}, false},
		"all say that it is a member of it":  {map[string]answering{"a": says("a", false), "b": says("b", false)}, false},
		"it is told along with an error too": {map[string]answering{"a": {name: "a", expelled: true, err: errors.New("cut off")}, "b": says("b", true)}, false},
		"two with other keys":                {map[string]answering{"a": {name: "a", expelled: true, otherKey: true}, "b": {name: "b", expelled: true, otherKey: true}}, false},
		"one of two has another ID":          {map[string]answering{"a": {name: "a", expelled: true, otherID: true}, "b": says("b", true)}, false},
		"the only other keeps no key":        {map[string]answering{"a": {name: "a", expelled: true, keyless: true}}, false},
		"one of two keeps no key":            {map[string]answering{"a": {name: "a", expelled: true, keyless: true}, "b": says("b", true)}, false},
		"two of three, one keeps no key":     {map[string]answering{"a": {name: "a", expelled: true, keyless: true}, "b": says("b", true), "c": says("c", true)}, true},
		"two, and one without a key objects": {map[string]answering{"a": {name: "a", keyless: true}, "b": says("b", true), "c": says("c", true)}, false},
		"two, and one with another key":      {map[string]answering{"a": {name: "a", otherKey: true}, "b": says("b", true), "c": says("c", true)}, true},
	} {
		by, certain := verdictOf(trial.hosts).witnesses(t.Context())
		if certain != trial.want {
			t.Errorf("%s: certain %v by %v, want %v", name, certain, by, trial.want)
		}
	}
}

// Of a large mesh a few hosts are asked.
func TestFewHostsAreAsked(t *testing.T) {
	t.Parallel()
	hosts := map[string]answering{}
	for _, name := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		hosts[name] = answering{name: name, expelled: true}
	}
	v := verdictOf(hosts)
	if by, certain := v.witnesses(t.Context()); !certain || len(by) != askedAtOnce {
		t.Errorf("certain %v by %v", certain, by)
	}
}

// A host that reaches the leader asks nobody; one that does not asks at a slow pace until it is
// certain.
func TestTheQuestionWaitsForTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var silent, certain atomic.Bool
		var asked atomic.Int32
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan bool, 1)
		go func() {
			ended <- awaitExpulsion(ctx, func(context.Context) bool { return !silent.Load() }, func(context.Context) bool { asked.Add(1); return certain.Load() })
		}()
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if n := asked.Load(); n != 0 {
			t.Errorf("a host in touch with the leader asks %d times", n)
		}
		silent.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := asked.Load(); n != 4 {
			t.Errorf("it asks %d times in a minute", n)
		}
		certain.Store(true)
		time.Sleep(expulsionEvery)
		synctest.Wait()
		select {
		case expelled := <-ended:
			if !expelled {
				t.Error("it ends without a verdict")
			}
		default:
			t.Error("it is certain, and goes on")
		}
	})
}

// serveStanding answers the join protocol as a host of a mesh, and returns where.
func serveStanding(t *testing.T, m *identitytest.Mesh, id *identity.Identity) identity.Seed {
	t.Helper()
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", id
	opened, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := enrol.DefaultServerConfig()
	server.Signer, server.Host = identity.NewSigner(m.Store, 0), id.Host()
	handler, err := enrol.NewServer(server)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := opened.Listen(port.ProtoJoin)
	if err != nil {
		t.Fatal(err)
	}
	rpc := port.ServeRPC(listener, handler, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := errors.Join(rpc.Shutdown(context.Background()), opened.Close()); err != nil {
			t.Error(err)
		}
	})
	at := opened.Addr().String()
	return identity.Seed{Host: id.Host(), MeshAddress: at, GossipAddress: at, HostID: id.Node().ID, KeyPin: id.KeyPin().String()}
}

// machineOf returns host2 of a mesh, which knows the other hosts by the seeds.
func machineOf(t *testing.T, m *identitytest.Mesh, seeds ...identity.Seed) (Config, *Member) {
	t.Helper()
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host = identity.NewSigner(m.Store, 0), "host1"
	dir, err := joinHost(t, m, cfg, raftstore.LevelRange{})
	if err != nil {
		t.Fatal(err)
	}
	_, config := newMachine(t, "host2")
	config.StateDir = dir
	member := newMember(config, testOptions())
	if err := member.openIdentity(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := member.identity.SetSeeds(seeds); err != nil {
		t.Fatal(err)
	}
	return config, member
}

// The whole way: two hosts that answer over TLS, and a third that was removed, in each of the
// ways that a membership can end or seem to.
func TestOnlyAnExpelledHostIsToldSo(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	first, other := serveStanding(t, m, m.First), serveStanding(t, m, m.Host(t, "host3", 0))
	stranger := identitytest.NewMesh(t)
	foreign := serveStanding(t, stranger, stranger.First)
	// Machines of who has the CA's key: one with the ID of the host, one with its own.
	forgedFirst, forgedOther := serveStanding(t, m, m.Host(t, "host1", 0)), serveStanding(t, m, renamed(t, m, "host3"))
	at := func(seed identity.Seed, address string) identity.Seed {
		seed.MeshAddress = address
		return seed
	}
	_, member := machineOf(t, m, first, other)
	hosts := identity.NewHosts(m.Store)
	if member.isExpelled(t.Context(), member.verdict()) {
		t.Error("a member")
	}
	if err := hosts.Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	for name, seeds := range map[string][]identity.Seed{
		"hosts of another mesh":        {foreign, foreign},
		"one of two":                   {first, at(other, foreign.MeshAddress)},
		"one of two, another is there": {first, at(other, first.MeshAddress)},
		"one of two, one is forged":    {first, at(other, forgedOther.MeshAddress)},
		"forged hosts":                 {at(first, forgedFirst.MeshAddress), at(other, forgedOther.MeshAddress)},
		"hosts that keep no key":       {{Host: "host1", MeshAddress: first.MeshAddress}, {Host: "host3", MeshAddress: other.MeshAddress}},
	} {
		if err := member.identity.SetSeeds(seeds); err != nil {
			t.Fatal(err)
		}
		if member.isExpelled(t.Context(), member.verdict()) {
			t.Errorf("certain by %s", name)
		}
	}
	if _, found, err := identity.ReadExpulsion(member.config.StateDir); found || err != nil {
		t.Errorf("it is kept although nothing was certain: %v", err)
	}
	if err := member.identity.SetSeeds([]identity.Seed{first, other}); err != nil {
		t.Fatal(err)
	}
	refused := member.renewals.askWhetherExpelled(t.Context())
	if err := member.confirmExpulsion(t.Context(), refused); !errors.Is(err, ErrExpelled) || !errors.Is(err, fault.Expelled) {
		t.Errorf("an expelled host: %v", err)
	}
	if kept, found, err := identity.ReadExpulsion(member.config.StateDir); !found || err != nil || strings.Join(kept.By, " ") != "host1 host3" || kept.GuestsEnded {
		t.Errorf("kept is %+v, %v, %v", kept, found, err)
	}
	// A state from before the machine joined, where another one has its name.
	restored := identitytest.NewMesh(t)
	writeRecord(t, restored.Store, "host2", "10.0.0.9:7443")
	if expelled, err := identity.NewSigner(restored.Store, 0).Expelled(t.Context(), identity.NewNode("host2")); expelled || err != nil {
		t.Errorf("a machine that the mesh does not know is expelled: %v, %v", expelled, err)
	}
}

// The fact outlives the agent: the next start joins nothing and starts no guest, whoever is
// there to be asked.
func TestAnExpelledHostStaysSo(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	config, member := machineOf(t, m)
	if err := member.identity.KeepExpulsion(identity.Expulsion{By: []string{"host1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), config, testOptions()); !errors.Is(err, ErrExpelled) {
		t.Errorf("it starts: %v", err)
	}
	if err := os.WriteFile(filepath.Join(config.StateDir, "identity", "expelled.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), config, testOptions()); !errors.Is(err, ErrExpelled) {
		t.Errorf("it starts when what it keeps is damaged: %v", err)
	}
	if err := Forget(config, ""); err != nil {
		t.Fatal(err)
	}
	if _, found, err := identity.ReadExpulsion(config.StateDir); found || err != nil {
		t.Errorf("after 'leave --local' the machine is still expelled: %v", err)
	}
}

// An expelled host ends its guests until none is left, once, and says what it does.
func TestAnExpelledHostEndsItsGuests(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	config, member := machineOf(t, m)
	if err := member.identity.KeepExpulsion(identity.Expulsion{By: []string{"host1", "host3"}}); err != nil {
		t.Fatal(err)
	}
	status := func() (string, error) {
		_, body, err := ask(socketOf(config), "http://host2/mesh/v1/status")
		if err != nil {
			return "", err
		}
		var s admin.Status
		if err := json.Unmarshal([]byte(body), &s); err != nil || len(s.Warnings) == 0 {
			return "", errors.Join(err, errors.New("no warning"))
		}
		return s.Warnings[0], nil
	}
	begun, proceed := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	retired := make(chan error, 1)
	go func() {
		retired <- Retire(ctx, config, testOptions(), func(context.Context) error {
			close(begun)
			<-proceed
			return nil
		})
	}()
	<-begun
	for _, want := range []string{"was expelled from its mesh (host1, host3 said so", "being shut down", "leave --local --yes"} {
		if warning, err := status(); err != nil || !strings.Contains(warning, want) {
			t.Errorf("status says %q, %v; want %q", warning, err, want)
		}
	}
	if code, _, err := ask(http.DefaultClient, "http://"+config.MetricsListen+"/readyz"); err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d, %v", code, err)
	}
	close(proceed)
	raftstoretest.Eventually(t, func() error {
		warning, err := status()
		if err == nil && !strings.Contains(warning, "have ended") {
			err = errors.New(warning)
		}
		return err
	})
	stop()
	if err := <-retired; err != nil {
		t.Error(err)
	}
	if kept, found, err := identity.ReadExpulsion(config.StateDir); !found || err != nil || !kept.GuestsEnded || len(kept.By) != 2 {
		t.Errorf("kept is %+v, %v, %v", kept, found, err)
	}
	ctx, stop = context.WithCancel(t.Context())
	go func() {
		retired <- Retire(ctx, config, testOptions(), func(context.Context) error {
			t.Error("guests are ended again")
			return nil
		})
	}()
	raftstoretest.Eventually(t, func() error { _, err := status(); return err })
	stop()
	if err := <-retired; err != nil {
		t.Error(err)
	}
}
