package kinds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
	"sigs.k8s.io/yaml"

	machine "virtmesh/agent/vmi"
)

func kind(t testing.TB, name string) *Kind {
	t.Helper()
	for _, k := range All() {
		if k.GVK.Kind == name {
			return k
		}
	}
	t.Fatalf("no kind %s", name)
	return nil
}

// object reads an object of a kind, with its defaults if it is new.
func object(t testing.TB, k *Kind, manifest string) runtime.Object {
	t.Helper()
	obj := k.New()
	if err := yaml.UnmarshalStrict([]byte(manifest), obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

// cells renders what kubectl get -o wide prints after the name.
func cells(k *Kind, obj runtime.Object) string {
	var out []string
	for _, c := range k.Columns {
		cell := c.Value(obj)
		if cell == nil {
			cell = "<none>"
		}
		out = append(out, fmt.Sprint(cell))
	}
	return strings.Join(out, "|")
}

func TestCells(t *testing.T) {
	for name, c := range map[string]struct{ kind, manifest, want string }{
		"node": {"Node", `
metadata: {labels: {node-role.kubernetes.io/worker: "", node-role.kubernetes.io/control-plane: ""}}
spec: {unschedulable: true}
status:
  conditions: [{type: Ready, status: "True"}]
  addresses: [{type: InternalIP, address: 10.0.0.1}]
  nodeInfo: {kubeletVersion: v1, osImage: Debian, kernelVersion: "6.1", containerRuntimeVersion: libvirt}`,
			"Ready,SchedulingDisabled|control-plane,worker|<unknown>|v1|10.0.0.1|<none>|Debian|6.1|libvirt"},
		"lost node":       {"Node", `status: {conditions: [{type: Ready, status: Unknown}]}`, "NotReady|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		"new node":        {"Node", `{}`, "Unknown|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		"namespace":       {"Namespace", `status: {phase: Active}`, "Active|<unknown>"},
		"secret":          {"Secret", `{type: Opaque, data: {a: Yg==}}`, "Opaque|1|<unknown>"},
		"config map":      {"ConfigMap", `{data: {a: b}, binaryData: {c: ZA==}}`, "2|<unknown>"},
		"service account": {"ServiceAccount", `{secrets: [{name: a}, {name: b}]}`, "2|<unknown>"},
		"claim": {"PersistentVolumeClaim", `
spec: {volumeName: v, storageClassName: fast, volumeMode: Block}
status: {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce, ReadWriteMany]}`,
			"Bound|v|1Gi|RWO,RWX|fast|<unknown>|Block"},
		"machine": {"VirtualMachine", `status: {printableStatus: Running, conditions: [{type: Ready, status: "True"}]}`, "<unknown>|Running|True"},
		"instance": {"VirtualMachineInstance", `
status:
  phase: Running
  nodeName: host1
  interfaces: [{ipAddress: 10.0.2.2}]
  conditions: [{type: Ready, status: "True"}, {type: LiveMigratable, status: "False"}, {type: Paused, status: "True"}]`,
			"<unknown>|Running|10.0.2.2|host1|True|False|True"},
		"new instance": {"VirtualMachineInstance", `{}`, "<unknown>|||||| "},
		"migration":    {"VirtualMachineInstanceMigration", `{spec: {vmiName: vmi}, status: {phase: Running}}`, "Running|vmi"},
		"class":        {"StorageClass", `{provisioner: p, reclaimPolicy: Delete, volumeBindingMode: Immediate}`, "p|Delete|Immediate|false|<unknown>"},
		"data volume":  {"DataVolume", `status: {phase: Succeeded, progress: "100.0%"}`, "Succeeded|100.0%|0|<unknown>"},
		"lease":        {"Lease", `spec: {holderIdentity: host1}`, "host1|<unknown>"},
		"event": {"Event", `{type: Normal, reason: Started, involvedObject: {kind: VirtualMachineInstance, name: vmi}, source: {component: agent}, message: "it runs\n", count: 3}`,
			"<unknown>|Normal|Started|virtualmachineinstance/vmi||agent|it runs|<unknown>|3"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kind(t, c.kind)
			if got := cells(k, object(t, k, c.manifest)); got != strings.TrimRight(c.want, " ") {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAge(t *testing.T) {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now().Add(-90 * time.Minute))}}
	if got := age.Value(m); got != "90m" {
		t.Errorf("age %v, want 90m", got)
	}
}

// What is refused on create, and at which field.
func TestCreateRefusals(t *testing.T) {
	for name, c := range map[string]struct{ kind, manifest, field string }{
		"good claim":              {"PersistentVolumeClaim", `spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`, ""},
		"claim without mode":      {"PersistentVolumeClaim", `spec: {resources: {requests: {storage: 1Gi}}}`, "spec.accessModes"},
		"claim of bad mode":       {"PersistentVolumeClaim", `spec: {accessModes: [x], resources: {requests: {storage: 1Gi}}}`, "spec.accessModes[0]"},
		"claim of no image":       {"PersistentVolumeClaim", `{metadata: {annotations: {cdi.kubevirt.io/storage.import.source: registry, cdi.kubevirt.io/storage.import.endpoint: "docker://x y"}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, "metadata.annotations[cdi.kubevirt.io/storage.import.endpoint]"},
		"claim of bad import":     {"PersistentVolumeClaim", `{metadata: {annotations: {cdi.kubevirt.io/storage.import.source: registry, cdi.kubevirt.io/storage.import.endpoint: x}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, "metadata.annotations[cdi.kubevirt.io/storage.import.endpoint]"},
		"claim of another import": {"PersistentVolumeClaim", `{metadata: {annotations: {cdi.kubevirt.io/storage.import.source: http, cdi.kubevirt.io/storage.import.endpoint: "https://x/y"}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, ""},
		"claim without size":      {"PersistentVolumeClaim", `spec: {accessModes: [ReadWriteOnce]}`, "spec.resources.requests[storage]"},
		"good class":              {"StorageClass", `provisioner: p`, ""},
		"class of nobody":         {"StorageClass", `{}`, "provisioner"},
		"class mode":              {"StorageClass", `{provisioner: p, volumeBindingMode: x}`, "volumeBindingMode"},
		"good secret":             {"Secret", `stringData: {a: b}`, ""},
		"secret key":              {"Secret", `stringData: {"a/b": c}`, "data[a/b]"},
		"large secret":            {"Secret", `stringData: {a: "` + strings.Repeat("x", 1<<20+1) + `"}`, "data"},
		"config map twice":        {"ConfigMap", `{data: {a: b}, binaryData: {a: ZA==}}`, "data[a]"},
		"good network":            {"NetworkAttachmentDefinition", `spec: {config: '{"cniVersion":"0.3.1","type":"bridge","bridge":"br1"}'}`, ""},
		"good network list":       {"NetworkAttachmentDefinition", `spec: {config: '{"plugins":[{"type":"bridge"}]}'}`, ""},
		"network config":          {"NetworkAttachmentDefinition", `spec: {config: '{'}`, "spec.config"},
		"network type":            {"NetworkAttachmentDefinition", `spec: {config: '{"a":1}'}`, "spec.config"},
		"taint":                   {"Node", `spec: {taints: [{key: k, effect: x}]}`, "spec.taints[0].effect"},
		"taint twice":             {"Node", `spec: {taints: [{key: k, effect: NoSchedule}, {key: k, effect: NoSchedule}]}`, "spec.taints[1]"},
		"lease":                   {"Lease", `spec: {leaseDurationSeconds: 0}`, "spec.leaseDurationSeconds"},
		"event elsewhere":         {"Event", `{metadata: {namespace: a}, involvedObject: {namespace: b}}`, "involvedObject.namespace"},
		"migration":               {"VirtualMachineInstanceMigration", `{}`, "spec.vmiName"},
		"good import":             {"DataVolume", `spec: {source: {registry: {url: "docker://registry/tiny"}}, storage: {resources: {requests: {storage: 1Gi}}}}`, ""},
		"good clone":              {"DataVolume", `spec: {sourceRef: {kind: DataSource, name: debian}, storage: {}}`, ""},
		"no source":               {"DataVolume", `spec: {storage: {resources: {requests: {storage: 1Gi}}}}`, "spec.source"},
		"two sources":             {"DataVolume", `spec: {source: {blank: {}, upload: {}}, storage: {resources: {requests: {storage: 1Gi}}}}`, "spec.source"},
		"source url":              {"DataVolume", `spec: {source: {http: {url: "file:///etc/passwd"}}, storage: {resources: {requests: {storage: 1Gi}}}}`, "spec.source.http.url"},
		"registry image":          {"DataVolume", `spec: {source: {registry: {url: "docker://registry/a:b:c"}}, storage: {resources: {requests: {storage: 1Gi}}}}`, "spec.source.registry.url"},
		"registry url":            {"DataVolume", `spec: {source: {registry: {url: "http://x/y"}}, storage: {resources: {requests: {storage: 1Gi}}}}`, "spec.source.registry.url"},
		"source kind":             {"DataVolume", `spec: {sourceRef: {kind: x, name: a}, storage: {}}`, "spec.sourceRef.kind"},
		"no target":               {"DataVolume", `spec: {source: {blank: {}}}`, "spec"},
		"target size":             {"DataVolume", `spec: {source: {blank: {}}, storage: {}}`, "spec.storage.resources.requests[storage]"},
		"target mode":             {"DataVolume", `spec: {source: {blank: {}}, pvc: {resources: {requests: {storage: 1Gi}}}}`, "spec.pvc.accessModes"},
		"no template":             {"VirtualMachine", `spec: {runStrategy: Always}`, "spec.template"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kind(t, c.kind)
			obj := object(t, k, c.manifest)
			if k.Default != nil {
				k.Default(machine.DefaultDefaults(), obj)
			}
			check(t, k.Validate(machine.DefaultDefaults(), obj), c.field)
		})
	}
}

func check(t *testing.T, errs field.ErrorList, path string) {
	t.Helper()
	if path == "" && len(errs) > 0 {
		t.Errorf("refused: %v", errs.ToAggregate())
	}
	for _, e := range errs {
		if e.Field == path {
			return
		}
	}
	if path != "" {
		t.Errorf("no error at %s, but %v", path, errs.ToAggregate())
	}
}

func TestUpdateRefusals(t *testing.T) {
	yes := true
	quantity := func(s string) corev1.VolumeResourceRequirements {
		return corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}}
	}
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: quantity("2Gi")}}
	class := &storagev1.StorageClass{Provisioner: "p"}
	defaultStorageClass(class)
	for name, c := range map[string]struct {
		kind  string
		old   runtime.Object
		edit  func(runtime.Object)
		field string
	}{
		"claim grows":  {"PersistentVolumeClaim", claim, func(o runtime.Object) { o.(*corev1.PersistentVolumeClaim).Spec.Resources = quantity("3Gi") }, ""},
		"claim bound":  {"PersistentVolumeClaim", claim, func(o runtime.Object) { o.(*corev1.PersistentVolumeClaim).Spec.VolumeName = "v" }, ""},
		"claim shrink": {"PersistentVolumeClaim", claim, func(o runtime.Object) { o.(*corev1.PersistentVolumeClaim).Spec.Resources = quantity("1Gi") }, "spec.resources.requests.storage"},
		"claim mode": {"PersistentVolumeClaim", claim, func(o runtime.Object) {
			o.(*corev1.PersistentVolumeClaim).Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, "spec"},
		"class expansion": {"StorageClass", class, func(o runtime.Object) { o.(*storagev1.StorageClass).AllowVolumeExpansion = &yes }, ""},
		"class parameters": {"StorageClass", class, func(o runtime.Object) {
			o.(*storagev1.StorageClass).Parameters = map[string]string{"a": "b"}
		}, "parameters"},
		"secret type": {"Secret", &corev1.Secret{Type: "a"}, func(o runtime.Object) { o.(*corev1.Secret).Type = "b" }, "type"},
		"immutable secret": {"Secret", &corev1.Secret{Immutable: &yes}, func(o runtime.Object) {
			o.(*corev1.Secret).Data = map[string][]byte{"a": nil}
		}, "data"},
		"mutable secret": {"Secret", &corev1.Secret{Immutable: &yes}, func(o runtime.Object) { o.(*corev1.Secret).Immutable = nil }, "immutable"},
		"immutable map": {"ConfigMap", &corev1.ConfigMap{Immutable: &yes}, func(o runtime.Object) {
			o.(*corev1.ConfigMap).Data = map[string]string{"a": "b"}
		}, "data"},
		"data volume": {"DataVolume", &cdiv1.DataVolume{}, func(o runtime.Object) {
			o.(*cdiv1.DataVolume).Spec.SourceRef = &cdiv1.DataVolumeSourceRef{}
		}, "spec"},
		"instance spec": {"VirtualMachineInstance", &kubevirtv1.VirtualMachineInstance{}, func(o runtime.Object) {
			o.(*kubevirtv1.VirtualMachineInstance).Spec.Hostname = "x"
		}, "spec"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kind(t, c.kind)
			obj := c.old.DeepCopyObject()
			c.edit(obj)
			check(t, k.ValidateUpdate(machine.DefaultDefaults(), obj, c.old), c.field)
		})
	}
}

// A machine gets its identity once and keeps it, also when it is changed.
func TestMachineIdentity(t *testing.T) {
	k := kind(t, "VirtualMachine")
	vm := object(t, k, `{metadata: {name: a}, spec: {template: {spec: {}}}}`).(*kubevirtv1.VirtualMachine)
	k.Default(machine.DefaultDefaults(), vm)
	fw := *vm.Spec.Template.Spec.Domain.Firmware
	if fw.UUID == "" || fw.Serial == "" {
		t.Fatalf("firmware %+v, want an identity", fw)
	}
	k.Default(machine.DefaultDefaults(), vm)
	if *vm.Spec.Template.Spec.Domain.Firmware != fw {
		t.Error("the identity changed")
	}
	other := object(t, k, `{metadata: {name: b}, spec: {template: {spec: {}}}}`).(*kubevirtv1.VirtualMachine)
	k.Default(machine.DefaultDefaults(), other)
	if other.Spec.Template.Spec.Domain.Firmware.UUID == fw.UUID {
		t.Error("two machines have one identity")
	}
	replaced := object(t, k, `{metadata: {name: a}, spec: {template: {spec: {}}}}`).(*kubevirtv1.VirtualMachine)
	k.DefaultUpdate(machine.DefaultDefaults(), replaced, vm)
	if *replaced.Spec.Template.Spec.Domain.Firmware != fw {
		t.Error("a machine that is replaced by a manifest without an identity is another one to its guest")
	}
	given := object(t, k, `{metadata: {name: a}, spec: {template: {spec: {domain: {firmware: {uuid: 7d3b1f0e-6f0e-4d7e-9a43-2f0f8d1b7c11}}}}}}`).(*kubevirtv1.VirtualMachine)
	k.DefaultUpdate(machine.DefaultDefaults(), given, vm)
	if f := given.Spec.Template.Spec.Domain.Firmware; f.UUID != "7d3b1f0e-6f0e-4d7e-9a43-2f0f8d1b7c11" || f.Serial != fw.Serial {
		t.Errorf("firmware %+v after a new UUID was given, want it, and the serial number of before", f)
	}
}
