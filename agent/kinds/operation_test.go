package kinds

import (
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds/meshv1alpha1"
	machine "virtmesh/agent/vmi"
)

func TestOperationsAreChecked(t *testing.T) {
	k := kind(t, "Operation")
	good := func() *meshv1alpha1.Operation {
		return &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: "host3"}}
	}
	for name, c := range map[string]struct {
		edit func(*meshv1alpha1.Operation)
		want string // in the error of a new object; "" if it is good
	}{
		"good":         {func(*meshv1alpha1.Operation) {}, ""},
		"unknown type": {func(o *meshv1alpha1.Operation) { o.Spec.Type = "Explode" }, "spec.type"},
		"no type":      {func(o *meshv1alpha1.Operation) { o.Spec.Type = "" }, "spec.type"},
		"no target":    {func(o *meshv1alpha1.Operation) { o.Spec.Target = "" }, "spec.target: Required"},
		// No host can have these names, so nothing could ever be done.
		"a target that no host can have": {func(o *meshv1alpha1.Operation) { o.Spec.Target = "Host_2" }, `spec.target: Invalid value: "Host_2"`},
		"a reserved target":              {func(o *meshv1alpha1.Operation) { o.Spec.Target = "localhost" }, "reserved"},
		"a target of any length":         {func(o *meshv1alpha1.Operation) { o.Spec.Target = strings.Repeat("h", 1<<20) }, "spec.target: Invalid"},
	} {
		o := good()
		c.edit(o)
		if err := k.Validate(machine.Defaults{}, o).ToAggregate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		from, to func(*meshv1alpha1.Operation)
		want     string
	}{
		"cancel":       {nil, func(o *meshv1alpha1.Operation) { o.Spec.Cancel = true }, ""},
		"not any more": {func(o *meshv1alpha1.Operation) { o.Spec.Cancel = true }, nil, "spec.cancel"},
		"other target": {nil, func(o *meshv1alpha1.Operation) { o.Spec.Target = "host4" }, "only cancel"},
	} {
		old, o := good(), good()
		if c.from != nil {
			c.from(old)
		}
		if c.to != nil {
			c.to(o)
		}
		if err := k.ValidateUpdate(machine.Defaults{}, o, old).ToAggregate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestOperationColumns(t *testing.T) {
	step := func(name string, phase meshv1alpha1.OperationStepPhase) meshv1alpha1.OperationStep {
		return meshv1alpha1.OperationStep{Name: name, Phase: phase}
	}
	half := meshv1alpha1.OperationStatus{Phase: meshv1alpha1.OperationRunning, Steps: []meshv1alpha1.OperationStep{
		step("a", meshv1alpha1.StepDone), {Name: "b", Phase: meshv1alpha1.StepRunning, Done: 2, Total: 5}, step("c", meshv1alpha1.StepPending),
	}}
	done := meshv1alpha1.OperationStatus{Phase: meshv1alpha1.OperationSucceeded, Steps: []meshv1alpha1.OperationStep{step("a", meshv1alpha1.StepDone)}}
	for _, c := range []struct {
		o             meshv1alpha1.Operation
		summary, step string
	}{
		{meshv1alpha1.Operation{}, "Pending", ""},
		{meshv1alpha1.Operation{Status: half}, "Running", "2/3 b (2 of 5)"},
		{meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Cancel: true}, Status: half}, "Cancelling", "2/3 b (2 of 5)"},
		{meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Cancel: true}, Status: done}, "Succeeded", "1/1"},
	} {
		if got := meshv1alpha1.OperationSummary(&c.o); got != c.summary {
			t.Errorf("status %q, want %q", got, c.summary)
		}
		if got := meshv1alpha1.OperationProgress(&c.o); got != c.step {
			t.Errorf("step %q, want %q", got, c.step)
		}
	}
}

// The fault of an operation is the same after it was stored.
func TestFaultsOfOperations(t *testing.T) {
	said := &fault.Fault{Code: fault.Conflict, Object: "host9", Field: "spec.target", Sentence: "host9 is alive", Remedy: "stop it"}
	o := &meshv1alpha1.Operation{Status: meshv1alpha1.OperationStatus{Phase: meshv1alpha1.OperationFailed, Message: said.Error(), Fault: OperationFault(said)}}
	o.Name = "op"
	got := fault.Of(OperationError(o))
	if got.Code != said.Code || got.Object != said.Object || got.Field != said.Field || got.Error() != "operation op failed: host9 is alive; stop it" {
		t.Errorf("got %+v", got)
	}
	o.Status.Fault = nil
	if got := fault.Of(OperationError(o)); got.Code != fault.Internal || !strings.Contains(got.Error(), said.Error()) {
		t.Errorf("of an earlier version: %+v", got)
	}
	for _, phase := range []meshv1alpha1.OperationPhase{"", meshv1alpha1.OperationRunning, meshv1alpha1.OperationSucceeded} {
		o.Status.Phase = phase
		if err := OperationError(o); err != nil {
			t.Errorf("%q: %v", phase, err)
		}
	}
	o.Status.Phase = meshv1alpha1.OperationCancelled
	if err := OperationError(o); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("cancelled: %v", err)
	}
}
