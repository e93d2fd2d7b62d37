package agent

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/membership"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
)

// A refusal ends an operation; a lost race does not, though it says that something is
// gone or was changed.
func TestALostRaceDoesNotEndAnOperation(t *testing.T) {
	store := objectstest.New()
	node := &corev1.Node{}
	node.Name = "host9"
	var tx objects.Tx
	tx.Create(node)
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	changed := node.DeepCopy()
	changed.Labels = map[string]string{"a": "b"}
	var change, late objects.Tx
	change.Update(node, changed)
	late.Delete(node, objects.DeleteOptions{})
	if _, err := change.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	_, conflict := late.Commit(t.Context(), store)
	var gone, latest objects.Tx
	gone.Delete(changed, objects.DeleteOptions{})
	if _, err := gone.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	latest.Update(node, changed)
	_, missing := latest.Commit(t.Context(), store)
	for err, permanent := range map[error]bool{
		fmt.Errorf("forget: %w", conflict):          false,
		fmt.Errorf("forget: %w", missing):           false,
		fault.New(fault.Unavailable, "no leader"):   false,
		fault.New(fault.Conflict, "host9 is alive"): true,
		fault.New(fault.NotFound, "no host9"):       true,
	} {
		got := lasting(membership.Step{Do: func(context.Context, func(done, total int64)) error { return err }})(t.Context(), nil)
		if (got != err) != permanent {
			t.Errorf("%v: permanent %v, want %v", err, !permanent, permanent)
		}
	}
	if !objects.LostRace(conflict) || !objects.LostRace(missing) {
		t.Errorf("no lost races: %v, %v", conflict, missing)
	}
}
