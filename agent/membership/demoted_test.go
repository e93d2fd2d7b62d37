package membership

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// Who has voted and may not any more is on record until no key is in use that it had, or until
// it may vote again; as long as it votes, it gets each new key.
func TestPlanDemoted(t *testing.T) {
	t.Parallel()
	old, now := identity.Pin{1}, identity.Pin{2}
	had := func(host string, ca identity.Pin, secrets ...string) identity.DemotedVoter {
		return identity.DemotedVoter{Host: host, CAPins: []string{ca.String()}, SecretKeys: secrets}
	}
	noB := raftstore.VoterLimit{Exclude: []string{"b"}}
	for _, c := range []struct {
		name    string
		view    demotedView
		want    []identity.DemotedVoter
		changed bool
	}{
		{"nobody is excluded", demotedView{voted: []string{"a", "b"}}, nil, false},
		{"who voted", demotedView{limit: noB, voted: []string{"a", "b"}, secrets: []string{"s"}}, []identity.DemotedVoter{had("b", now, "s")}, true},
		{"who never voted", demotedView{limit: noB, voted: []string{"a"}}, nil, false},
		{"once", demotedView{limit: noB, voted: []string{"b"}, known: []identity.DemotedVoter{had("b", now)}}, []identity.DemotedVoter{had("b", now)}, false},
		{"the CA was replaced", demotedView{limit: noB, known: []identity.DemotedVoter{had("b", old)}}, nil, true},
		{"the key for Secrets is still to be replaced", demotedView{limit: noB, known: []identity.DemotedVoter{had("b", old, "s")}, secrets: []string{"s", "t"}},
			[]identity.DemotedVoter{had("b", old, "s")}, false},
		{"all keys were replaced", demotedView{limit: noB, known: []identity.DemotedVoter{had("b", old, "s")}, secrets: []string{"t"}}, nil, true},
		{"it votes still, and gets the new keys", demotedView{limit: noB, voters: []string{"b"}, voted: []string{"b"}, known: []identity.DemotedVoter{had("b", old, "s")}, secrets: []string{"t"}},
			[]identity.DemotedVoter{had("b", now, "t")}, true},
		{"it lost its vote while the CA was replaced, and has the key of the new one", demotedView{limit: noB, known: []identity.DemotedVoter{{Host: "b", CAPins: []string{old.String(), now.String()}}}},
			[]identity.DemotedVoter{{Host: "b", CAPins: []string{old.String(), now.String()}}}, false},
		{"it may vote again", demotedView{known: []identity.DemotedVoter{had("b", now)}}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.view.cas = append(c.view.cas, now.String())
			hosts, changed := planDemoted(c.view)
			same := slices.EqualFunc(hosts, c.want, func(a, b identity.DemotedVoter) bool {
				return a.Host == b.Host && slices.Equal(a.CAPins, b.CAPins) && slices.Equal(a.SecretKeys, b.SecretKeys)
			})
			if !same || changed != c.changed {
				t.Errorf("%+v, changed %v; want %+v, %v", hosts, changed, c.want, c.changed)
			}
		})
	}
}

// allowVoters stores which hosts may vote.
func allowVoters(t *testing.T, m *Member, voters meshv1alpha1.Voters) {
	t.Helper()
	config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}, Spec: meshv1alpha1.MeshConfigSpec{Voters: &voters}}
	store := objects.FromRaft(m.store, nil)
	var tx objects.Tx
	if stored, err := objects.Get[*meshv1alpha1.MeshConfig](t.Context(), store, objects.Key{Name: meshv1alpha1.Name}, raftstore.ReadOptions{}); err == nil {
		changed := stored.DeepCopy()
		changed.Spec.Voters = &voters
		tx.Update(stored, changed)
	} else {
		tx.Create(config)
	}
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until what is looked for is there.
func eventually(t *testing.T, look func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// The administrator takes the vote of a host: another one votes, and leads, instead, the mesh
// goes on meanwhile, and status says which keys the host had until they are replaced.
func TestAVoterIsExcluded(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	keepers := []demotedKeeper{first.demotedKeeper(), second.demotedKeeper()}
	step := func() {
		for _, k := range keepers {
			if _, err := k.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	step()
	allowVoters(t, first, meshv1alpha1.Voters{Exclude: []string{"host1"}})
	eventually(t, func() error {
		if voters := second.store.Voters(); !slices.Equal(voters, []string{"host2"}) || !second.store.IsLeader() {
			return fmt.Errorf("%q vote", voters)
		}
		return nil
	})
	step()
	sameCopy(t, second, first)
	told := func(m *Member) (list []string) {
		status, err := m.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !status.Members[0].MayNotVote || status.Members[1].MayNotVote {
			t.Errorf("%+v", status.Members)
		}
		return slices.DeleteFunc(status.Warnings, func(w string) bool { return !strings.Contains(w, "vote") })
	}
	for _, m := range []*Member{first, second} {
		if got := told(m); len(got) != 1 || !strings.Contains(got[0], "host1 may not vote any more, and has had the key of the mesh's CA") || !strings.Contains(got[0], "virtmesh ca rotate") {
			t.Errorf("%s warns of %q", m.config.Name, got)
		}
	}
	allowVoters(t, second, meshv1alpha1.Voters{Hosts: []string{"host2", "host7"}, Exclude: []string{"host1"}})
	if got := told(second); len(got) != 2 || !strings.Contains(strings.Join(got, ";"), "no host of this mesh: host7") {
		t.Errorf("a slip of the pen: %q", got)
	}
	allowVoters(t, second, meshv1alpha1.Voters{})
	step()
	if rec, _, err := identity.ReadDemoted(t.Context(), second.store, raftstore.ReadOptions{}); err != nil || len(rec.Hosts) > 0 {
		t.Errorf("host1 may vote again: %+v, %v", rec, err)
	}
}

// Status says that a limit leaves one voter, unless others keep their places until a host joins.
func TestStatusTellsOfALoneVoter(t *testing.T) {
	t.Parallel()
	members := []admin.Member{{Name: "host1", Role: roleLeader}, {Name: "host2", Role: "replica"}, {Name: "host3", Role: "replica"}}
	limit := raftstore.VoterLimit{Exclude: []string{"host3"}}
	if got := limitWarnings(limit, members); len(got) != 1 || !strings.Contains(got[0], "lets 2 of 3 hosts vote, so one votes alone") {
		t.Errorf("one of three is left out: %q", got)
	}
	members[2].Role = roleVoter
	if got := strings.Join(limitWarnings(limit, members), ";"); strings.Contains(got, "alone") || !strings.Contains(got, "host3 may not vote") {
		t.Errorf("host3 votes still: %q", got)
	}
}
