package claims

import (
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// A replica that finds a version in its log which it does not know stops. So what
// was ever demanded stays.
func TestRulesThatLogsMayHoldAreKnown(t *testing.T) {
	var known []string
	for _, rule := range Rules() {
		known = append(known, fmt.Sprintf("%s/v%d", rule.Name, rule.Version))
	}
	for _, demanded := range []string{
		RuleHostCapacity + "/v1", RuleVMIOnce + "/v1", RuleVMIOnce + "/v2", RuleVMIOnce + "/v3", RuleVolumeOnce + "/v1",
		RulePlacedSince + "/v1", RulePlacedSince + "/v2", RuleMigrationSlots + "/v1", RuleMigrationSlots + "/v2",
		RulePoolCapacity + "/v1",
	} {
		if !slices.Contains(known, demanded) {
			t.Errorf("%s is not known any more", demanded)
		}
	}
}

// checkVersions checks that every version of a rule is one that all replicas know that a
// mesh at its feature level can have, and that the oldest is for the first level.
func checkVersions[Args any](t *testing.T, versions []version[Args], args Args) {
	t.Helper()
	checkVersionsFrom(t, level.Lowest, versions, args)
}

// checkVersionsFrom checks the versions of a rule that there is from a level on.
func checkVersionsFrom[Args any](t *testing.T, first uint32, versions []version[Args], args Args) {
	t.Helper()
	known := map[string]raftstore.Constraint{}
	for _, rule := range Rules() {
		known[fmt.Sprintf("%s/v%d", rule.Name, rule.Version)] = rule
	}
	last := uint32(0)
	for i, v := range versions {
		call := v.call(args)
		name := fmt.Sprintf("%s/v%d", call.Name, call.Version)
		rule, ok := known[name]
		if !ok || rule.FeatureLevel > v.since {
			t.Errorf("%s is demanded from level %d on; known %v, from level %d on", name, v.since, ok, rule.FeatureLevel)
		}
		if i == 0 && v.since > first || v.since <= last || v.since > level.Highest {
			t.Errorf("%s, version %d of the rule, is demanded from level %d on", name, i, v.since)
		}
		last = v.since
	}
}

func TestVersionsWaitForALevelThatKnowsThem(t *testing.T) {
	checkVersions(t, vmiOnce(), "uid")
	checkVersions(t, hostCapacity(), "h1")
	checkVersionsFrom(t, level.Apart, poolCapacity(), "h1")
	checkVersions(t, volumeOnce(), volumeKey("ns", "disk"))
	checkVersions(t, migrationSlots(), struct{}{})
	checkVersions(t, placedSince(), placement{})
}

// A mesh demands the newest version of a rule that its level allows, and the next one only
// after the level was raised: a transaction that is built before is judged by the level at
// its commit.
func TestANewVersionOfARuleWaitsForItsLevel(t *testing.T) {
	var judged []uint32
	rule := func(number uint32) raftstore.Constraint {
		return raftstore.Constraint{Name: "rule", Version: number, Check: func(raftstore.View, *raftstore.Txn, []byte) error {
			judged = append(judged, number)
			return nil
		}}
	}
	versions := []version[types.UID]{}
	for number, since := range map[uint32]uint32{1: 1, 2: 2, 3: 5} {
		versions = append(versions, version[types.UID]{since, func(types.UID) raftstore.ConstraintCall {
			return raftstore.ConstraintCall{Name: "rule", Version: number}
		}})
	}
	slices.SortFunc(versions, func(a, b version[types.UID]) int { return int(a.since) - int(b.since) })
	store := objectstest.New(rule(1), rule(2), rule(3))
	for _, at := range []uint32{1, 2, 4, 5, 9} {
		var tx objects.Tx
		tx.Put("/claims/x", fmt.Appendf(nil, "%d", at))
		demand(&tx, versions, "uid")
		demand(&tx, versions, "uid")
		store.SetFeatureLevel(at)
		if _, err := tx.Commit(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	if want := []uint32{1, 2, 2, 3, 3}; !slices.Equal(judged, want) {
		t.Errorf("judged by versions %v, want %v, once each", judged, want)
	}
}
