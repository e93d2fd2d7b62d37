package hcov1beta1

import "strings"

// State says what becomes of a field.
type State string

// The states of fields.
const (
	// Acting fields change what the mesh does.
	Acting State = "acting"
	// Stored fields are kept, and nothing acts on them in this version.
	Stored State = "stored"
	// NotApplicable fields are kept, and are about something that a mesh does not have.
	NotApplicable State = "not applicable"
)

// Setting says what becomes of a field and of all that is below it.
//
// +k8s:openapi-gen=false
// +k8s:deepcopy-gen=false
type Setting struct {
	// Path is the field, such as spec.liveMigrationConfig.
	Path string
	// State says what becomes of it, Note why, in half a sentence.
	State State
	Note  string
	// Test is the name of the test that shows it.
	Test string
}

// Says returns in a sentence what becomes of the field.
func (s Setting) Says() string {
	switch s.State {
	case Stored:
		return "the value is stored, and nothing acts on it yet: " + s.Note
	case NotApplicable:
		return "the value is stored and has no effect in a mesh: " + s.Note
	}
	return s.Note
}

// inert is the test of what is not acted on: who sets it is warned.
const inert = "TestWhatDoesNotActSaysSo"

// Settings returns every field with its state, in the order of the type. This is the only list of
// them: the documentation and the warnings of the API come from it.
func Settings() []Setting {
	stored := func(path, note string) Setting { return Setting{"spec." + path, Stored, note, inert} }
	foreign := func(path, note string) Setting { return Setting{"spec." + path, NotApplicable, note, inert} }
	acting := func(path, note, test string) Setting { return Setting{"spec." + path, Acting, note, test} }
	return []Setting{
		foreign("localStorageClassName", "the operator ignores it, too"),
		foreign("tuningPolicy", "hosts have no limits of requests to a Kubernetes API"),
		foreign("infra", "every host of a mesh is alike; no component is placed"),
		stored("workloads", "placement does not read it; use labels and node selectors of machines"),
		foreign("featureGates", "what works in a mesh is not behind gates"),
		stored("liveMigrationConfig", "this version does not migrate"),
		stored("permittedHostDevices", "hosts do not read it"),
		stored("mediatedDevicesConfiguration", "hosts do not make mediated devices"),
		stored("certConfig", "certificates of hosts have times of their own"),
		stored("resourceRequirements.storageWorkloads", "this version does not import data"),
		foreign("resourceRequirements.vmiCPUAllocationRatio", "the mesh has this setting in its MeshConfig, spec.capacity.cpuAllocationRatio"),
		stored("resourceRequirements.autoCPULimitNamespaceLabelSelector", "no limits are added"),
		stored("scratchSpaceStorageClass", "this version does not import data"),
		stored("vddkInitImage", "this version does not import data"),
		acting("defaultCPUModel", "the CPU model of machines that name none, from their next start on", "TestDefaultsFollowTheConfiguration"),
		foreign("defaultRuntimeClass", "machines do not run in pods"),
		stored("obsoleteCPUs", "hosts show the CPU models that libvirt reports as usable"),
		foreign("commonTemplatesNamespace", "a mesh brings no templates"),
		stored("storageImport", "list the registries in the configuration of each host, images.insecureRegistries"),
		foreign("workloadUpdateStrategy", "machines go on running while the program of their host is replaced"),
		stored("dataImportCronTemplates", "this version does not import data"),
		stored("filesystemOverhead", "a volume of a mesh has all the room that was asked for"),
		foreign("uninstallStrategy", "a deleted HyperConverged is made anew with its defaults; machines stay"),
		stored("logVerbosityConfig", "the flag --log-level of the agent says what a host logs"),
		stored("tlsSecurityProfile", "hosts speak TLS 1.3 to each other, and at least TLS 1.2 to clients"),
		foreign("tektonPipelinesNamespace", "a mesh brings no pipelines"),
		foreign("tektonTasksNamespace", "a mesh brings no tasks"),
		foreign("kubeSecondaryDNSNameServerIP", "a mesh has no such name server"),
		stored("kubeMacPoolConfiguration", "MAC addresses are not taken from a range"),
		acting("evictionStrategy", "the strategy of machines that name none; one that runs gets it when its VirtualMachine changes, at the latest at its next start", "TestDefaultsFollowTheConfiguration"),
		foreign("vmStateStorageClass", "the state of firmware and TPM is kept on the host of its machine, in no storage class"),
		stored("virtualMachineOptions", "hosts do not read it"),
		foreign("commonBootImageNamespace", "a mesh brings no images"),
		stored("ksmConfiguration", "hosts do not switch KSM"),
		stored("changedBlockTrackingLabelSelectors", "this version does not back up"),
		stored("networkBinding", "hosts have no plugins for bindings"),
		foreign("applicationAwareConfig", "ResourceQuota counts machines"),
		foreign("higherWorkloadDensity", "the mesh has this setting in its MeshConfig, spec.capacity.memoryOvercommitPercent"),
		foreign("enableCommonBootImageImport", "a mesh brings no images"),
		stored("instancetypeConfig", "no machine uses instance types in this version"),
		stored("CommonInstancetypesDeployment", "no machine uses instance types in this version"),
		stored("deployVmConsoleProxy", "this version gives out no VNC tokens"),
		foreign("enableApplicationAwareQuota", "ResourceQuota counts machines"),
		foreign("liveUpdateConfiguration", "the mesh has this setting in its MeshConfig, spec.virtualMachine.maxHotplugRatio"),
		foreign("hypervisors", "hosts run machines with KVM"),
		stored("roleAggregationStrategy", "the roles of KubeVirt are always added to those of Kubernetes"),
	}
}

// SettingOf returns the setting that a field belongs to.
func SettingOf(path string) (Setting, bool) {
	for _, s := range Settings() {
		if path == s.Path || strings.HasPrefix(path, s.Path+".") {
			return s, true
		}
	}
	return Setting{}, false
}
