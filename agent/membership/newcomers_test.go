package membership

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/membership/succession"
	"virtmesh/agent/port"
)

// groupOf is a group in a state that a test sets.
type groupOf struct {
	level uint32
	hears bool
	heard time.Time // if it is not heard now; zero: never
}

func (g *groupOf) FeatureLevel() uint32 { return g.level }
func (g *groupOf) LeaderSilence() (silence time.Duration, heard bool) {
	if g.hears {
		return 0, true
	}
	return time.Since(g.heard), !g.heard.IsZero()
}

// TestTheCAsKeyMakesNoHost: somebody who has the CA's key makes a host with an ID of its own,
// under a new name and under that of a host. A host that hears its leader gives it nothing.
func TestTheCAsKeyMakesNoHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		g := &groupOf{level: level.Apart - 1, hears: true}
		var a Admission
		a.open(m.Store, g, nil, nil)
		made := map[string]*identity.Identity{"a new name": m.Host(t, "host9", 0)}
		made["the name of a host"] = renamed(t, m, "host1")
		notary := identity.NewNotary(m.First, a.StillMember)
		try := func(id *identity.Identity) (refused map[string]error) {
			refused = map[string]error{"API": a.Judge(t.Context(), id.Leaf())}
			for _, proto := range []string{port.ProtoRaft, port.ProtoStore, port.ProtoRPC, port.ProtoKeyring} {
				refused[proto] = a.Admit(port.Peer{Node: id.Node(), Key: id.KeyPin(), Proto: proto})
				refused[proto+" dialled"] = a.Admit(port.Peer{Node: id.Node(), Key: id.KeyPin(), Proto: proto, Dialled: true})
			}
			signed, err := identity.NewNotary(id, nil).Sign([]byte("message"))
			if err != nil {
				t.Fatal(err)
			}
			_, refused["signature"] = notary.Verify([]byte("message"), signed)
			refused["open connection"] = a.Ended(id.Leaf())
			return refused
		}
		for name, id := range made {
			for what, err := range try(id) {
				if err != nil {
					t.Errorf("%s, %s, below the level: %v", name, what, err)
				}
			}
		}
		g.level = level.Apart
		for range 3 { // an election is no time to get in either
			for name, id := range made {
				for what, err := range try(id) {
					if !errors.Is(err, identity.ErrUnrecorded) {
						t.Errorf("%s, %s: %v", name, what, err)
					}
				}
			}
			for what, err := range try(m.First) {
				if err != nil {
					t.Errorf("a host, %s: %v", what, err)
				}
			}
			time.Sleep(newcomerSilence - 5*time.Second)
			g.hears, g.heard = !g.hears, time.Now()
		}
	})
}

// renamed returns an identity that a CA made for a host's name, with an ID of its own.
func renamed(t *testing.T, m *identitytest.Mesh, name string) *identity.Identity {
	t.Helper()
	other := identitytest.Mesh{Store: identitytest.NewStore(), CA: m.CA, First: m.First}
	return other.Host(t, name, 0)
}

// TestAHostThatWasOffFindsTodaysVoters: all that its copy knows of are gone. It lets itself be
// told by machines that it does not know, and gives them nothing; and when it has not become a
// part of the mesh by them, they lose their connections.
func TestAHostThatWasOffFindsTodaysVoters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		g := &groupOf{level: level.Apart}
		var a Admission
		a.open(m.Store, g, nil, nil)
		voter := m.Host(t, "host9", 0)
		peer := func(proto string, dialled bool) port.Peer {
			return port.Peer{Node: voter.Node(), Key: voter.KeyPin(), Proto: proto, Dialled: dialled}
		}
		if err := a.Admit(peer(port.ProtoRaft, false)); !errors.Is(err, identity.ErrUnrecorded) {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(newcomerSilence)
		for _, p := range []port.Peer{peer(port.ProtoRaft, false), peer(port.ProtoRaft, true), peer(port.ProtoStore, true)} {
			if err := a.Admit(p); err != nil {
				t.Errorf("%s, dialled %v: %v", p.Proto, p.Dialled, err)
			}
		}
		if err := a.StillMember(voter.Node(), voter.KeyPin()); err != nil {
			t.Errorf("what it signs: %v", err)
		}
		namesake := renamed(t, m, "host1")
		if err := a.StillMember(namesake.Node(), namesake.KeyPin()); err != nil {
			t.Errorf("what another machine signs under the name of a host that keeps no key: %v", err)
		}
		if err := identity.NewHosts(m.Store).Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) { r.KeyKept = true }); err != nil {
			t.Fatal(err)
		}
		if a.StillMember(namesake.Node(), namesake.KeyPin()) == nil {
			t.Error("what another machine signs counts as a host's that keeps its key")
		}
		for _, p := range []port.Peer{peer(port.ProtoStore, false), peer(port.ProtoRPC, false), peer(port.ProtoRPC, true), peer(port.ProtoKeyring, false), peer(port.ProtoAPI, false)} {
			if err := a.Admit(p); !errors.Is(err, identity.ErrUnrecorded) {
				t.Errorf("%s, dialled %v: %v", p.Proto, p.Dialled, err)
			}
		}
		// It is heard as the leader now; what the copy lacks takes a while.
		g.hears = true
		time.Sleep(newcomerTime - time.Minute)
		if err := errors.Join(a.Admit(peer(port.ProtoRaft, false)), a.Ended(voter.Leaf())); err != nil {
			t.Errorf("while the copy is brought up to date: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if a.Admit(peer(port.ProtoRaft, false)) == nil || a.Ended(voter.Leaf()) == nil {
			t.Error("a machine without a record goes on")
		}
	})
}

// listing is a list of voters: their keys by name.
type listing struct {
	voters map[string]*identity.Identity
	newer  bool
}

func (l listing) InUse() bool { return l.voters != nil }

func (l listing) Judge(node identity.Node, key identity.Pin) (succession.Verdict, bool) {
	switch voter := l.voters[node.Name]; {
	case voter == nil:
		return succession.Unnamed, l.newer
	case voter.Node() == node && voter.KeyPin() == key:
		return succession.Votes, l.newer
	}
	return succession.Impostor, l.newer
}

// TestACutOffHostIsNotTakenOver: somebody who has the CA's key and the network makes a host, and
// waits for as long as he likes. A host that does not hear its leader takes only those whom the
// list of voters names, and gives these nothing either. Below the level it takes him.
func TestACutOffHostIsNotTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		g := &groupOf{level: level.Apart}
		attacker, namesake := m.Host(t, "host9", 0), renamed(t, m, "host4")
		voter := m.Host(t, "host4", 0)
		list := listing{voters: map[string]*identity.Identity{"host4": voter}, newer: true}
		var below, a Admission
		below.open(m.Store, &groupOf{level: level.Apart}, listing{}, nil)
		g.level = level.Succession
		a.open(m.Store, g, list, nil)
		peer := func(id *identity.Identity, proto string, dialled bool) port.Peer {
			return port.Peer{Node: id.Node(), Key: id.KeyPin(), Proto: proto, Dialled: dialled}
		}
		time.Sleep(newcomerSilence)
		if err := below.Admit(peer(attacker, port.ProtoRaft, false)); err != nil {
			t.Errorf("below the level: %v", err)
		}
		for range 3 {
			for _, id := range []*identity.Identity{attacker, namesake} {
				for _, p := range []port.Peer{peer(id, port.ProtoRaft, false), peer(id, port.ProtoRaft, true), peer(id, port.ProtoStore, true)} {
					if a.Admit(p) == nil {
						t.Errorf("%s, %s, dialled %v, is taken", id.Node(), p.Proto, p.Dialled)
					}
				}
				if a.StillMember(id.Node(), id.KeyPin()) == nil || a.Ended(id.Leaf()) == nil {
					t.Errorf("what %s signs counts, or it keeps its connections", id.Node())
				}
			}
			if err := errors.Join(a.Admit(peer(voter, port.ProtoRaft, false)), a.Admit(peer(voter, port.ProtoStore, true)), a.StillMember(voter.Node(), voter.KeyPin()), a.Ended(voter.Leaf())); err != nil {
				t.Errorf("a voter: %v", err)
			}
			for _, p := range []port.Peer{peer(voter, port.ProtoRPC, false), peer(voter, port.ProtoKeyring, false), peer(voter, port.ProtoStore, false), peer(voter, port.ProtoAPI, false)} {
				if a.Admit(p) == nil {
					t.Errorf("a voter without a record is served %s", p.Proto)
				}
			}
			time.Sleep(time.Hour)
		}
	})
}

// TestANewerListOverrulesTheCopy: another machine has the name of a host of this host's copy by
// now, and votes. The former one is refused, also in what it signs; once the copy is as new as
// the list, its records count.
func TestANewerListOverrulesTheCopy(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	if err := identity.NewHosts(m.Store).Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) { r.KeyKept = true }); err != nil {
		t.Fatal(err)
	}
	now := renamed(t, m, "host1")
	for newer, c := range map[bool]struct{ former, now bool }{true: {false, true}, false: {true, false}} {
		var a Admission
		a.open(m.Store, &groupOf{level: level.Succession}, listing{map[string]*identity.Identity{"host1": now}, newer}, nil)
		for id, want := range map[*identity.Identity]bool{m.First: c.former, now: c.now} {
			if err := a.StillMember(id.Node(), id.KeyPin()); (err == nil) != want {
				t.Errorf("newer %v, %s: what it signs: %v", newer, id.Node(), err)
			}
		}
		if err := a.Admit(port.Peer{Node: m.First.Node(), Key: m.First.KeyPin(), Proto: port.ProtoRPC}); (err == nil) != c.former {
			t.Errorf("newer %v, the former machine: %v", newer, err)
		}
		// A keyring gives nothing to a key that the voters have not signed, whatever the records say.
		if err := a.Admit(port.Peer{Node: m.First.Node(), Key: m.First.KeyPin(), Proto: port.ProtoKeyring}); err == nil {
			t.Errorf("newer %v, the former machine is let to the keyring", newer)
		}
	}
}

// TestANameHasOnePlace: below the level, whoever makes many machines under the names of few has
// few places among the newcomers.
func TestANameHasOnePlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		var a Admission
		a.open(m.Store, &groupOf{level: level.Apart}, nil, nil)
		time.Sleep(newcomerSilence)
		take := func(node identity.Node) error {
			return a.Admit(port.Peer{Node: node, Key: identity.Pin{1}, Proto: port.ProtoRaft})
		}
		for range 2 * maxNewcomers {
			if err := take(identity.NewNode("host8")); err != nil {
				t.Fatal(err)
			}
		}
		if err := take(identity.NewNode("host9")); err != nil {
			t.Errorf("there is no place left: %v", err)
		}
	})
}
