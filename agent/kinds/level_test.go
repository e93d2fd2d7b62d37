package kinds

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"virtmesh/agent/level"
)

// No kind or field waits for a level that this version does not know itself, and every
// field that waits exists.
func TestNothingWaitsForever(t *testing.T) {
	for _, k := range All() {
		if k.FeatureLevel > level.Highest {
			t.Errorf("%s waits for level %d", k.GVK.Kind, k.FeatureLevel)
		}
		for path, needed := range k.FieldLevels {
			if needed > level.Highest || needed <= k.FeatureLevel {
				t.Errorf("%s: %s waits for level %d", k.GVK.Kind, path, needed)
			}
		}
	}
}

// A kind and a field of a later level are refused before, by name and with the level.
func TestKindsAndFieldsWaitForTheirLevel(t *testing.T) {
	k := *kind(t, "VirtualMachineInstance")
	k.FeatureLevel = 2
	k.FieldLevels = map[string]uint32{"spec.hostname": 3, "spec.domain.devices.disks[].cache": 4}
	const plain = `{metadata: {name: a}, spec: {domain: {devices: {disks: [{name: a}]}}}}`
	const named = `{metadata: {name: a}, spec: {hostname: x, domain: {devices: {disks: [{name: a}]}}}}`
	const cached = `{metadata: {name: a}, spec: {domain: {devices: {disks: [{name: b}, {name: a, cache: none}]}}}}`
	const otherwise = `{metadata: {name: a}, spec: {hostname: z, domain: {devices: {disks: [{name: a, cache: writeback}]}}}}`
	for name, c := range map[string]struct {
		mesh     uint32
		old, obj string
		want     string // the fields that are refused
	}{
		"the kind is too new":          {1, "", plain, "kind"},
		"the kind may be used":         {2, "", plain, ""},
		"a field is too new":           {2, "", named, "spec.hostname"},
		"a field of an element":        {3, "", cached, "spec.domain.devices.disks[].cache"},
		"the fields may be used":       {4, "", otherwise, ""},
		"both fields":                  {2, "", otherwise, "spec.domain.devices.disks[].cache spec.hostname"},
		"added later":                  {2, plain, named, "spec.hostname"},
		"an old object of a later day": {1, plain, plain, ""},
		"there already":                {2, named, named, ""},
		"changed":                      {2, named, otherwise, "spec.domain.devices.disks[].cache spec.hostname"},
		"taken out":                    {2, otherwise, plain, ""},
	} {
		var old runtime.Object
		if c.old != "" {
			old = object(t, &k, c.old)
		}
		var fields []string
		for _, err := range k.CheckLevel(c.mesh, object(t, &k, c.obj), old) {
			fields = append(fields, err.Field)
			if !strings.Contains(err.Error(), "before the mesh is at feature level") || !strings.Contains(err.Error(), "'virtmesh level'") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := strings.Join(fields, " "); got != c.want {
			t.Errorf("%s: refused %q, want %q", name, got, c.want)
		}
	}
}
