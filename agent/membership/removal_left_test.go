package membership

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/port/admin"
)

// A removal that was cancelled after the host was barred says which Secrets the host could read,
// which tokens it may have made, and that it knows the gossip key: nobody else tells. What was
// done is not told to be done again.
func TestARemovalTellsItsEnd(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	store := clearStore(m)
	for i := range namedInMessage + 2 {
		putSecret(t, m, fmt.Sprintf("s%02d", i), "x")
	}
	token, _, err := identity.NewTokens(m.store).Create(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	const secrets, tokens, key = "ns/s00, ns/s01", "may have made", "still knows the gossip key"
	revoke := revokeTokens(m.store)
	for _, c := range []struct {
		done      []string
		says, not []string
	}{
		{done: nil, not: []string{"host9"}},
		{done: []string{stepBar}, says: []string{secrets, "and 2 more", tokens, token.ID, key}},
		{done: []string{stepBar, stepRevoke}, says: []string{secrets, key}, not: []string{token.ID}},
		{done: []string{stepBar, stepRevoke, stepRefuseOldKey}, says: []string{secrets}, not: []string{token.ID, key}},
	} {
		op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: "host9"}}
		for _, step := range []string{stepBar, stepRevoke, stepRefuseOldKey} {
			op.Status.Steps = append(op.Status.Steps, meshv1alpha1.OperationStep{Name: step, Phase: meshv1alpha1.StepPending})
		}
		for i := range c.done {
			op.Status.Steps[i].Phase = meshv1alpha1.StepDone
		}
		left, err := m.LeftOfRemoval(t.Context(), op, store)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.says {
			if !strings.Contains(left, want) {
				t.Errorf("after %q: %q, want %q", c.done, left, want)
			}
		}
		for _, no := range c.not {
			if strings.Contains(left, no) {
				t.Errorf("after %q: %q has %q", c.done, left, no)
			}
		}
	}
	for phase, told := range map[meshv1alpha1.OperationStepPhase]bool{meshv1alpha1.StepPending: true, meshv1alpha1.StepDone: false} {
		op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: "host9", ReplaceCA: true}}
		op.Status.Steps = []meshv1alpha1.OperationStep{{Name: stepBar, Phase: meshv1alpha1.StepDone}, {Name: stepEndTrust, Phase: phase}}
		if left, err := m.LeftOfRemoval(t.Context(), op, store); err != nil || strings.Contains(left, "virtmesh ca rotate") != told {
			t.Errorf("the last step is %s: %q, %v", phase, left, err)
		}
	}
	bundle := identity.BundleMade{Host: "host9", Number: 1}
	if err := m.identity.KnowBundle(bundle); err != nil {
		t.Fatal(err)
	}
	if err := identity.RecordBundle(t.Context(), m.store, bundle); err != nil {
		t.Fatal(err)
	}
	for host, made := range map[string]bool{"host9": true, "host8": false} {
		op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: host}}
		op.Status.Steps = []meshv1alpha1.OperationStep{{Name: stepBar, Phase: meshv1alpha1.StepDone}}
		left, err := m.LeftOfRemoval(t.Context(), op, store)
		if told := strings.Contains(left, "bundle was made on "+host); err != nil || told != made {
			t.Errorf("%s made the newest bundle %t: %q, %v", host, made, left, err)
		}
		removed, err := administration{Member: m, store: store}.removed(t.Context(), admin.Removal{Host: host})
		if err != nil || removed.MadeBundle != made {
			t.Errorf("%s made the newest bundle %t: the command hears %+v, %v", host, made, removed, err)
		}
	}
	carryOut(t, []Step{revoke})
	if note := revoke.Note(); note != "revoked "+token.ID {
		t.Errorf("the step says %q", note)
	}
}
