package kinds

import (
	"slices"
	"strings"
	"testing"

	"virtmesh/agent/level"
	machine "virtmesh/agent/vmi"
)

// wholeInstancetype and wholePreference are objects as users of KubeVirt write them, with every
// part that an instance type or preference has.
const (
	wholeInstancetype = `
metadata: {name: all, labels: {instancetype.kubevirt.io/class: general.purpose}}
spec:
  nodeSelector: {topology.kubernetes.io/zone: a}
  schedulerName: other
  cpu: {guest: 4, model: host-passthrough, dedicatedCPUPlacement: true, isolateEmulatorThread: true, maxSockets: 8, numa: {guestMappingPassthrough: {}}, realtime: {mask: 0-1}}
  memory: {guest: 8Gi, maxGuest: 16Gi, hugepages: {pageSize: 1Gi}}
  gpus: [{name: gpu1, deviceName: nvidia.com/GV100GL_Tesla_V100}]
  hostDevices: [{name: nic1, deviceName: intel.com/qat}]
  ioThreadsPolicy: supplementalPool
  ioThreads: {supplementalPoolThreadCount: 4}
  annotations: {example.com/a: b}`
	wholePreference = `
metadata: {name: all}
spec:
  clock: {preferredClockOffset: {utc: {}}, preferredTimer: {hpet: {present: false}, hyperv: {}}}
  cpu: {preferredCPUTopology: spread, spreadOptions: {across: CoresThreads, ratio: 2}, preferredCPUFeatures: [{name: ssse3, policy: require}]}
  devices: {preferredDiskBus: virtio, preferredInterfaceModel: virtio, preferredInputBus: virtio, preferredInputType: tablet, preferredTPM: {}, preferredAutoattachMemBalloon: true}
  features: {preferredAcpi: {}, preferredSmm: {}, preferredHyperv: {relaxed: {}}}
  firmware: {preferredEfi: {secureBoot: true}}
  machine: {preferredMachineType: q35}
  volumes: {preferredStorageClassName: fast}
  preferredSubdomain: sub
  preferredTerminationGracePeriodSeconds: 180
  preferSpreadSocketToCoreRatio: 4
  preferredArchitecture: amd64
  requirements: {architecture: amd64, cpu: {guest: 2}, memory: {guest: 2Gi}}
  annotations: {example.com/a: b}`
)

// eachScope runs a test with the kind of a namespace and that of the whole mesh.
func eachScope(t *testing.T, suffix string, test func(*testing.T, *Kind)) {
	for _, name := range []string{"VirtualMachine" + suffix, "VirtualMachineCluster" + suffix} {
		t.Run(name, func(t *testing.T) { test(t, kind(t, name)) })
	}
}

// What is refused is refused on create and on update, at the same field.
func checkBoth(t *testing.T, k *Kind, good, manifest, path, says string) {
	t.Helper()
	d, obj := machine.DefaultDefaults(), object(t, k, manifest)
	made, changed := k.Validate(d, obj), k.ValidateUpdate(d, obj, object(t, k, good))
	check(t, made, path)
	check(t, changed, path)
	if path != "" && (len(made) != 1 || !strings.Contains(made[0].Detail, says)) {
		t.Errorf("%s\ngot %v, want %q at %s alone", manifest, made, says, path)
	}
}

func TestInstancetypeRules(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ manifest, field, says string }{
		"complete":          {wholeInstancetype, "", ""},
		"overcommit":        {`spec: {cpu: {guest: 1}, memory: {guest: 128Mi, overcommitPercent: 100}}`, "", ""},
		"no CPU":            {`spec: {memory: {guest: 128Mi}}`, "spec.cpu.guest", "at least one CPU"},
		"no memory":         {`spec: {cpu: {guest: 1}}`, "spec.memory.guest", "gives its machines memory"},
		"negative memory":   {`spec: {cpu: {guest: 1}, memory: {guest: -1Gi}}`, "spec.memory.guest", "greater than 0"},
		"overcommit of 101": {`spec: {cpu: {guest: 1}, memory: {guest: 128Mi, overcommitPercent: 101}}`, "spec.memory.overcommitPercent", "spec.memory.overcommitPercent '101': must be in range between 0 and 100."},
		"overcommit of -1":  {`spec: {cpu: {guest: 1}, memory: {guest: 128Mi, overcommitPercent: -1}}`, "spec.memory.overcommitPercent", "spec.memory.overcommitPercent '-1': must be in range between 0 and 100."},
		"hugepages":         {`spec: {cpu: {guest: 1}, memory: {guest: 128Mi, overcommitPercent: 15, hugepages: {pageSize: 2Mi}}}`, "spec.memory.overcommitPercent", "spec.memory.overcommitPercent and spec.memory.hugepages should not be requested together."},
	} {
		t.Run(name, func(t *testing.T) {
			eachScope(t, "Instancetype", func(t *testing.T, k *Kind) { checkBoth(t, k, wholeInstancetype, c.manifest, c.field, c.says) })
		})
	}
}

func TestPreferenceRules(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ manifest, field, says string }{
		"complete":          {wholePreference, "", ""},
		"empty":             {`spec: {}`, "", ""},
		"no topology":       {`spec: {cpu: {spreadOptions: {across: Nothing}}}`, "", ""},
		"not spread":        {`spec: {cpu: {preferredCPUTopology: cores, spreadOptions: {across: CoresThreads, ratio: 3}}}`, "", ""},
		"sockets and cores": {`spec: {preferSpreadSocketToCoreRatio: 3, cpu: {preferredCPUTopology: spread}}`, "", ""},
		"topology":          {`spec: {cpu: {preferredCPUTopology: round}}`, "spec.cpu.preferredCPUTopology", "unknown preferredCPUTopology round"},
		"across":            {`spec: {cpu: {preferredCPUTopology: spread, spreadOptions: {across: Nothing}}}`, "spec.cpu.spreadOptions.across", "across Nothing is not supported"},
		"ratio":             {`spec: {cpu: {preferredCPUTopology: spread, spreadOptions: {across: CoresThreads, ratio: 3}}}`, "spec.cpu.spreadOptions.ratio", "only a ratio of 2 (1 core 2 threads) is allowed"},
		"older ratio":       {`spec: {preferSpreadSocketToCoreRatio: 3, cpu: {preferredCPUTopology: preferSpread, spreadOptions: {across: CoresThreads}}}`, "spec.cpu.spreadOptions.ratio", "only a ratio of 2 (1 core 2 threads) is allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			eachScope(t, "Preference", func(t *testing.T, k *Kind) { checkBoth(t, k, wholePreference, c.manifest, c.field, c.says) })
		})
	}
}

// Each of KubeVirt's names of a topology is taken, and users are told of those that will go.
func TestTopologiesOfPreferences(t *testing.T) {
	t.Parallel()
	for wanted, better := range map[string]string{
		"sockets": "", "cores": "", "threads": "", "spread": "", "any": "",
		"preferSockets": "sockets", "preferCores": "cores", "preferThreads": "threads", "preferSpread": "spread", "preferAny": "any",
	} {
		eachScope(t, "Preference", func(t *testing.T, k *Kind) {
			obj := object(t, k, `spec: {cpu: {preferredCPUTopology: `+wanted+`}}`)
			check(t, k.Validate(machine.DefaultDefaults(), obj), "")
			want := []string{machine.InstancetypesAreNotApplied}
			if better != "" {
				want = append(want, "PreferredCPUTopology "+wanted+" is deprecated for removal in a future release, please use "+better+" instead")
			}
			if got := k.Warnings(obj); !slices.Equal(got, want) {
				t.Errorf("%s: warned of %q, want %q", wanted, got, want)
			}
		})
	}
}

func TestWarningsOfInstancetypes(t *testing.T) {
	t.Parallel()
	eachScope(t, "Instancetype", func(t *testing.T, k *Kind) {
		if got := k.Warnings(object(t, k, wholeInstancetype)); !slices.Equal(got, []string{machine.InstancetypesAreNotApplied}) {
			t.Errorf("warned of %q", got)
		}
		sealed := object(t, k, `spec: {cpu: {guest: 1}, memory: {guest: 1Gi}, launchSecurity: {sev: {}}}`)
		if got := k.Warnings(sealed); len(got) != 2 || !strings.HasPrefix(got[1], "launchSecurity is deprecated") {
			t.Errorf("warned of %q", got)
		}
	})
}

// A mesh with hosts of an older version does not take what these would not know.
func TestInstancetypesWaitForTheirLevel(t *testing.T) {
	t.Parallel()
	for suffix, manifest := range map[string]string{"Instancetype": wholeInstancetype, "Preference": wholePreference} {
		eachScope(t, suffix, func(t *testing.T, k *Kind) {
			obj := object(t, k, manifest)
			check(t, k.CheckLevel(level.Access-1, obj, nil), "kind")
			check(t, k.CheckLevel(level.Access, obj, nil), "")
		})
	}
}
