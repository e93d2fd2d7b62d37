package membership

import (
	"log/slog"
	"slices"
	"testing"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/identity/manifest"
)

// A host that was off while all hosts that it knows were replaced asks the voters of a newer list
// for its next certificate: it knows them from nowhere else.
func TestVotersOfANewerListAreAsked(t *testing.T) {
	t.Parallel()
	p := NewPeers("host4", identitytest.NewMesh(t).First, slog.New(slog.DiscardHandler))
	p.OpenVoters(func() []manifest.Voter {
		return []manifest.Voter{{Name: "host4", ID: "id4", Address: "host4:7443"}, {Name: "host9", ID: "id9", Address: "host9:7443"}}
	})
	if at := p.MeshAddresses(); !slices.Contains(at, "host9:7443") || slices.Contains(at, "host4:7443") {
		t.Errorf("it asks %v", at)
	}
	if at, err := p.Resolve(t.Context(), "host9"); at != "host9:7443" {
		t.Errorf("host9 is found at %q: %v", at, err)
	}
}
