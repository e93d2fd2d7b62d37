package registry

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds"
	machine "virtmesh/agent/vmi"
)

// What waits for a feature level is refused on every way into the store, until the mesh is
// raised.
func TestWritesWaitForTheLevel(t *testing.T) {
	kind := *kinds.For[*kubevirtv1.VirtualMachineInstanceMigration]()
	kind.FieldLevels = map[string]uint32{"spec.vmiName": 2, "status.phase": 2}
	mesh := uint32(1)
	s := strategy{kind: &kind, defaults: machine.DefaultDefaults, level: func() uint32 { return mesh }}
	migration := func(name string, phase kubevirtv1.VirtualMachineInstanceMigrationPhase) *kubevirtv1.VirtualMachineInstanceMigration {
		m := &kubevirtv1.VirtualMachineInstanceMigration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", ResourceVersion: "1"}}
		m.Spec.VMIName, m.Status.Phase = name, phase
		return m
	}
	ways := map[string]func() field.ErrorList{
		"create": func() field.ErrorList { return s.Validate(t.Context(), migration("a", "")) },
		"update": func() field.ErrorList {
			return s.ValidateUpdate(t.Context(), migration("a", ""), migration("", ""))
		},
		"status": func() field.ErrorList {
			return statusStrategy{s}.ValidateUpdate(t.Context(), migration("", "Running"), migration("", ""))
		},
	}
	for way, write := range ways {
		if errs := waiting(write()); len(errs) != 1 {
			t.Errorf("%s at level 1: %v, want one field that waits", way, errs)
		}
	}
	mesh = 2
	for way, write := range ways {
		if errs := waiting(write()); len(errs) != 0 {
			t.Errorf("%s at level 2: %v", way, errs)
		}
	}
}

// waiting returns the errors about fields that wait.
func waiting(errs field.ErrorList) (list field.ErrorList) {
	for _, err := range errs {
		if strings.Contains(err.Detail, "feature level") {
			list = append(list, err)
		}
	}
	return list
}
