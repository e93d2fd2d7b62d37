package membership

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
)

// groupOf is a group in a state that a test sets.
type groupOf struct {
	level uint32
	hears bool
}

func (g *groupOf) FeatureLevel() uint32 { return g.level }
func (g *groupOf) HearsLeader() bool    { return g.hears }

// TestTheCAsKeyMakesNoHost: somebody who has the CA's key makes a host with an ID of its own,
// under a new name and under that of a host. A host that hears its leader gives it nothing.
func TestTheCAsKeyMakesNoHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		g := &groupOf{level: level.Apart - 1, hears: true}
		var a Admission
		a.open(m.Store, g)
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
			g.hears = !g.hears
			a.look()
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
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		g := &groupOf{level: level.Apart}
		var a Admission
		a.open(m.Store, g)
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
