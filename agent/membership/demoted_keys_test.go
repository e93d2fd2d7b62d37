package membership

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A key is replaced because of a host that has had it and lost its vote an hour ago, and not
// because of one that never had it.
func TestPlanKeyReplacement(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	had := func(host string, ago time.Duration, ca string, secrets ...string) identity.DemotedVoter {
		return identity.DemotedVoter{Host: host, Since: now.Add(-ago), CAPins: []string{ca}, SecretKeys: secrets}
	}
	for name, c := range map[string]struct {
		demoted []identity.DemotedVoter
		view    keyView
		want    keyReplacement
	}{
		"nobody":                     {nil, keyView{signing: "ca", active: "s"}, keyReplacement{}},
		"both keys":                  {[]identity.DemotedVoter{had("b", 2*time.Hour, "ca", "s")}, keyView{signing: "ca", active: "s"}, keyReplacement{ca: "b", secrets: "b"}},
		"not yet":                    {[]identity.DemotedVoter{had("b", 59*time.Minute, "ca", "s")}, keyView{signing: "ca", active: "s"}, keyReplacement{}},
		"it votes still":             {[]identity.DemotedVoter{had("b", 2*time.Hour, "ca", "s")}, keyView{voters: []string{"b"}, signing: "ca", active: "s"}, keyReplacement{}},
		"the keys are newer":         {[]identity.DemotedVoter{had("b", 2*time.Hour, "old", "r")}, keyView{signing: "ca", active: "s"}, keyReplacement{}},
		"the CA is being replaced":   {[]identity.DemotedVoter{had("b", 2*time.Hour, "ca", "s")}, keyView{active: "s"}, keyReplacement{secrets: "b"}},
		"another key is about to be": {[]identity.DemotedVoter{had("b", 2*time.Hour, "ca", "s")}, keyView{signing: "ca"}, keyReplacement{ca: "b"}},
		"each because of another host": {[]identity.DemotedVoter{had("b", 2*time.Hour, "old", "s"), had("c", 2*time.Hour, "ca", "r")}, keyView{signing: "ca", active: "s"},
			keyReplacement{ca: "c", secrets: "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.view.demoted, c.view.now = c.demoted, now
			if got := planKeyReplacement(c.view); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// An hour after a host lost its vote by the administrator's word, the mesh replaces the keys that
// the host has had: once, and again if that fails. It does not if the administrator keeps them.
func TestKeysOfADemotedVoterAreReplaced(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	keepers := []demotedKeeper{first.demotedKeeper(), second.demotedKeeper()}
	step := func() {
		t.Helper()
		for _, k := range keepers {
			if _, err := k.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	sealUntil := func(done func(identity.SecretKeysRecord) bool) {
		t.Helper()
		eventually(t, func() error {
			_, errFirst := first.secretsKeeper().step(t.Context())
			_, errSecond := second.secretsKeeper().step(t.Context())
			if keys, stored, err := identity.ReadSecretKeys(t.Context(), second.store, raftstore.ReadOptions{}); err != nil || !done(keys) || second.store.IsLeader() && !second.resealed(stored) {
				return errors.Join(fmt.Errorf("the keys for Secrets are %+v", keys), err, errFirst, errSecond)
			}
			return nil
		})
	}
	sealUntil(func(keys identity.SecretKeysRecord) bool { return keys.Active != "" && keys.Pending() == "" })
	step()
	allowVoters(t, first, meshv1alpha1.Voters{Exclude: []string{"host1"}})
	eventually(t, func() error {
		if voters := second.store.Voters(); !slices.Equal(voters, []string{"host2"}) || !second.store.IsLeader() {
			return fmt.Errorf("%q vote", voters)
		}
		return nil
	})
	step()
	rec, _, err := identity.ReadDemoted(t.Context(), second.store, raftstore.ReadOptions{})
	if err != nil || len(rec.Hosts) != 1 || len(rec.Hosts[0].SecretKeys) == 0 {
		t.Fatalf("%+v, %v", rec, err)
	}
	old := rec.Hosts[0].SecretKeys

	keys := demotedKeys{second}
	asks := func(after time.Duration, want bool, when string) {
		t.Helper()
		rec, _, err := identity.ReadDemoted(t.Context(), second.store, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if asked, err := keys.replaceDue(t.Context(), rec.Hosts, time.Now().Add(after)); err != nil || asked != want {
			t.Fatalf("%s: asked %v, %v", when, asked, err)
		}
	}
	asks(0, false, "within the hour")
	allowVoters(t, second, meshv1alpha1.Voters{Exclude: []string{"host1"}, KeepKeys: true})
	asks(2*demotedGrace, false, "the administrator keeps the keys")
	allowVoters(t, second, meshv1alpha1.Voters{Exclude: []string{"host1"}})

	asks(2*demotedGrace, true, "the key for Secrets")
	sealUntil(func(keys identity.SecretKeysRecord) bool {
		return !keys.Rotate && keys.Pending() == "" && !slices.Contains(old, keys.Active)
	})
	status, err := second.Status(t.Context())
	if err != nil || len(status.Demoted) != 1 || !status.Demoted[0].CAKey || len(status.Demoted[0].SecretKeys) > 0 {
		t.Errorf("the key for Secrets is replaced: %+v, %v", status.Demoted, err)
	}

	raftstoretest.Eventually(t, func() error { return second.mustReplaceCA(t.Context()) })
	asks(2*demotedGrace, true, "the CA")
	asks(2*demotedGrace, false, "another CA is on its way")
	store := objects.FromRaft(second.store, nil)
	op, err := objects.Get[*meshv1alpha1.Operation](t.Context(), store, objects.Key{Name: "rotate-ca-1"}, raftstore.ReadOptions{})
	if err != nil || op.Spec.Type != meshv1alpha1.RotateCA || !strings.Contains(op.Spec.RequestedBy, "host1 may not vote") {
		t.Fatalf("%+v, %v", op, err)
	}
	failed := op.DeepCopy()
	ended := metav1.NewTime(time.Now().Add(2 * demotedGrace))
	failed.Status.Phase, failed.Status.Ended = meshv1alpha1.OperationFailed, &ended
	var tx objects.Tx
	tx.Update(op, failed)
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	asks(2*demotedGrace+replacementPause/2, false, "it has failed a short while ago")
	asks(2*demotedGrace+2*replacementPause, true, "it has failed")
}
