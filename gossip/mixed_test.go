package gossip_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

// TestLaterSectionsAreRelayed: what a later version says of a member reaches a member that
// can hear of it only through an earlier version, by gossip and by sync. When the member
// goes back to the earlier version, nobody keeps what it does not say any more.
func TestLaterSectionsAreRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 3)
		author, reader := gossiptest.Name(0), gossiptest.Name(2)
		m.Network.Cut(author, reader, true)
		m.Network.Cut(reader, author, true)
		for _, text := range []string{"first", "second"} {
			gossip.AnnounceLater(m.Member(author), text)
			if !m.Await(10*time.Second, func(g *gossip.Gossip) bool { return gossip.LaterOf(g, author) == text }) {
				t.Fatalf("%s knows %q, want %q", reader, gossip.LaterOf(m.Member(reader), author), text)
			}
		}
		if err := m.Add(nil); err != nil {
			t.Fatal(err)
		}
		if got := gossip.LaterOf(m.Members[3], author); got != "second" {
			t.Errorf("a member that joined knows %q", got)
		}
		m.Network.Cut(author, reader, false)
		m.Network.Cut(reader, author, false)
		if _, ok := m.AwaitDeath(author, time.Minute); !ok {
			t.Fatal("its death goes unnoticed")
		}
		if err := m.AddNamed(author, nil); err != nil {
			t.Fatal(err)
		}
		if !m.Await(time.Minute, func(g *gossip.Gossip) bool { return gossip.LaterOf(g, author) == "" }) {
			t.Error("what the author's later version said stays")
		}
	})
}

// TestProtocolRanges: a member joins if all speak one version, and is told what does not
// fit otherwise.
func TestProtocolRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 2)
		speak := func(lowest, highest uint8) func(int, *gossip.Config) {
			return func(_ int, c *gossip.Config) { gossip.Speak(c, lowest, highest) }
		}
		if err := m.Add(speak(1, 2)); err != nil {
			t.Errorf("a member that speaks version 2 too: %v", err)
		}
		if err := m.Add(speak(2, 3)); err == nil || !strings.Contains(err.Error(), "is incompatible") {
			t.Errorf("a member that speaks other versions: %v", err)
		}
	})
}
