package membership

import (
	"context"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port/enrol"
)

// A host that was off and has no list of the voters takes the new CA from two hosts that it knows,
// if it was made with the key of the CA that it trusts. Any host can write the records of two hosts
// with keys of its own, and let them say what it likes.
func TestOnlyALinkedCAIsLearned(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	own := m.CA.CertificatePEM()
	next, link, err := m.CA.NewSuccessor(m.First.MeshID())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := identity.NewCA(m.First.MeshID())
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]*identity.Identity{"host2:1": m.Host(t, "host2", 0), "host3:1": m.Host(t, "host3", 0)}
	say := func(said enrol.Standing) (enrol.Standing, bool) {
		return verdict{
			others: func() (list []identity.Seed) {
				for at, id := range hosts {
					list = append(list, identity.Seed{Host: id.Host(), HostID: id.Node().ID, MeshAddress: at, KeyPin: id.KeyPin().String()})
				}
				return list
			},
			ask: func(_ context.Context, at string) (enrol.Standing, error) {
				told := said
				told.By, told.Key, told.Generation = hosts[at].Node(), hosts[at].KeyPin(), 4
				return told, nil
			},
		}.trusted(t.Context(), own)
	}
	if said, certain := say(enrol.Standing{CABundle: next.CertificatePEM(), Links: link}); !certain || string(said.CABundle) != string(next.CertificatePEM()) {
		t.Errorf("the new CA is not learned: certain %v", certain)
	}
	for what, links := range map[string][]byte{"no link": nil, "the link of another CA": link, "its own": foreign.CertificatePEM()} {
		if _, certain := say(enrol.Standing{CABundle: foreign.CertificatePEM(), Links: links}); certain {
			t.Errorf("a foreign CA with %s is learned", what)
		}
	}
}
