package objects

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clonev1 "kubevirt.io/api/clone/v1beta1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	exportv1 "kubevirt.io/api/export/v1beta1"
	instancetypev1 "kubevirt.io/api/instancetype/v1beta1"
	migrationsv1 "kubevirt.io/api/migrations/v1alpha1"
	poolv1 "kubevirt.io/api/pool/v1beta1"
	snapshotv1 "kubevirt.io/api/snapshot/v1beta1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/kinds/meshv1alpha1"
)

// Object is any stored API object; the type is always a pointer to a struct.
type Object interface {
	metav1.Object
	runtime.Object
}

// Key names an object within its kind.
type Key = types.NamespacedName

// KeyOf returns the key of o.
func KeyOf(o metav1.Object) Key { return Key{Namespace: o.GetNamespace(), Name: o.GetName()} }

// Kind describes one kind of object.
type Kind struct {
	// GVK is the version that is stored.
	GVK schema.GroupVersionKind
	// Resource is the plural name.
	Resource string
	// Namespaced says whether objects live in a namespace.
	Namespaced bool

	typ     reflect.Type // the struct, not the pointer
	hasSpec bool
}

// GroupResource returns the group and plural name.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
}

// New returns a new, empty object of the kind.
func (k *Kind) New() Object { return reflect.New(k.typ).Interface().(Object) }

// Prefix returns what the store keys of all objects of the kind begin with.
func (k *Kind) Prefix() string {
	group := k.GVK.Group
	if group == "" {
		group = "core"
	}
	return "/registry/" + group + "/" + k.Resource + "/"
}

// NamespacePrefix returns what the store keys of the objects in namespace
// begin with; all objects if namespace is empty or the kind has none.
func (k *Kind) NamespacePrefix(namespace string) string {
	if namespace == "" || !k.Namespaced {
		return k.Prefix()
	}
	return k.Prefix() + namespace + "/"
}

// StoreKey returns the store key of the object named key.
func (k *Kind) StoreKey(key Key) string {
	if !k.Namespaced {
		return k.Prefix() + key.Name
	}
	return k.Prefix() + key.Namespace + "/" + key.Name
}

// keyFromStore is the inverse of StoreKey.
func (k *Kind) keyFromStore(storeKey string) (Key, bool) {
	rest, ok := strings.CutPrefix(storeKey, k.Prefix())
	if !ok || rest == "" {
		return Key{}, false
	}
	if !k.Namespaced {
		return Key{Name: rest}, !strings.Contains(rest, "/")
	}
	ns, name, ok := strings.Cut(rest, "/")
	return Key{Namespace: ns, Name: name}, ok && ns != "" && name != "" && !strings.Contains(name, "/")
}

// entry builds a Kind from its Go type.
func entry[T any](gv schema.GroupVersion, kind, resource string, namespaced bool) *Kind {
	t := reflect.TypeFor[T]()
	_, hasSpec := t.FieldByName("Spec")
	return &Kind{GVK: gv.WithKind(kind), Resource: resource, Namespaced: namespaced, typ: t, hasSpec: hasSpec}
}

const namespaced, clusterWide = true, false

// kindList is the table of kinds the agent itself reads or writes. The API
// server may serve more.
var kindList = []*Kind{
	entry[corev1.Namespace](corev1.SchemeGroupVersion, "Namespace", "namespaces", clusterWide),
	entry[corev1.Node](corev1.SchemeGroupVersion, "Node", "nodes", clusterWide),
	entry[corev1.PersistentVolume](corev1.SchemeGroupVersion, "PersistentVolume", "persistentvolumes", clusterWide),
	entry[corev1.Secret](corev1.SchemeGroupVersion, "Secret", "secrets", namespaced),
	entry[corev1.ConfigMap](corev1.SchemeGroupVersion, "ConfigMap", "configmaps", namespaced),
	entry[corev1.Event](corev1.SchemeGroupVersion, "Event", "events", namespaced),
	entry[corev1.Service](corev1.SchemeGroupVersion, "Service", "services", namespaced),
	entry[corev1.ServiceAccount](corev1.SchemeGroupVersion, "ServiceAccount", "serviceaccounts", namespaced),
	entry[corev1.Pod](corev1.SchemeGroupVersion, "Pod", "pods", namespaced),
	entry[corev1.PersistentVolumeClaim](corev1.SchemeGroupVersion, "PersistentVolumeClaim", "persistentvolumeclaims", namespaced),
	entry[coordinationv1.Lease](coordinationv1.SchemeGroupVersion, "Lease", "leases", namespaced),
	entry[appsv1.ControllerRevision](appsv1.SchemeGroupVersion, "ControllerRevision", "controllerrevisions", namespaced),
	entry[policyv1.PodDisruptionBudget](policyv1.SchemeGroupVersion, "PodDisruptionBudget", "poddisruptionbudgets", namespaced),
	entry[storagev1.StorageClass](storagev1.SchemeGroupVersion, "StorageClass", "storageclasses", clusterWide),
	entry[rbacv1.Role](rbacv1.SchemeGroupVersion, "Role", "roles", namespaced),
	entry[rbacv1.RoleBinding](rbacv1.SchemeGroupVersion, "RoleBinding", "rolebindings", namespaced),
	entry[rbacv1.ClusterRole](rbacv1.SchemeGroupVersion, "ClusterRole", "clusterroles", clusterWide),
	entry[rbacv1.ClusterRoleBinding](rbacv1.SchemeGroupVersion, "ClusterRoleBinding", "clusterrolebindings", clusterWide),
	entry[k8scni.NetworkAttachmentDefinition](k8scni.SchemeGroupVersion, "NetworkAttachmentDefinition", "network-attachment-definitions", namespaced),

	entry[meshv1alpha1.MeshConfig](meshv1alpha1.SchemeGroupVersion, "MeshConfig", "meshconfigs", clusterWide),

	entry[kubevirtv1.KubeVirt](kubevirtv1.GroupVersion, "KubeVirt", "kubevirts", namespaced),
	entry[kubevirtv1.VirtualMachine](kubevirtv1.GroupVersion, "VirtualMachine", "virtualmachines", namespaced),
	entry[kubevirtv1.VirtualMachineInstance](kubevirtv1.GroupVersion, "VirtualMachineInstance", "virtualmachineinstances", namespaced),
	entry[kubevirtv1.VirtualMachineInstanceMigration](kubevirtv1.GroupVersion, "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations", namespaced),
	entry[kubevirtv1.VirtualMachineInstanceReplicaSet](kubevirtv1.GroupVersion, "VirtualMachineInstanceReplicaSet", "virtualmachineinstancereplicasets", namespaced),
	entry[kubevirtv1.VirtualMachineInstancePreset](kubevirtv1.GroupVersion, "VirtualMachineInstancePreset", "virtualmachineinstancepresets", namespaced),
	entry[instancetypev1.VirtualMachineInstancetype](instancetypev1.SchemeGroupVersion, "VirtualMachineInstancetype", "virtualmachineinstancetypes", namespaced),
	entry[instancetypev1.VirtualMachineClusterInstancetype](instancetypev1.SchemeGroupVersion, "VirtualMachineClusterInstancetype", "virtualmachineclusterinstancetypes", clusterWide),
	entry[instancetypev1.VirtualMachinePreference](instancetypev1.SchemeGroupVersion, "VirtualMachinePreference", "virtualmachinepreferences", namespaced),
	entry[instancetypev1.VirtualMachineClusterPreference](instancetypev1.SchemeGroupVersion, "VirtualMachineClusterPreference", "virtualmachineclusterpreferences", clusterWide),
	entry[snapshotv1.VirtualMachineSnapshot](snapshotv1.SchemeGroupVersion, "VirtualMachineSnapshot", "virtualmachinesnapshots", namespaced),
	entry[snapshotv1.VirtualMachineSnapshotContent](snapshotv1.SchemeGroupVersion, "VirtualMachineSnapshotContent", "virtualmachinesnapshotcontents", namespaced),
	entry[snapshotv1.VirtualMachineRestore](snapshotv1.SchemeGroupVersion, "VirtualMachineRestore", "virtualmachinerestores", namespaced),
	entry[clonev1.VirtualMachineClone](clonev1.SchemeGroupVersion, "VirtualMachineClone", "virtualmachineclones", namespaced),
	entry[exportv1.VirtualMachineExport](exportv1.SchemeGroupVersion, "VirtualMachineExport", "virtualmachineexports", namespaced),
	entry[poolv1.VirtualMachinePool](poolv1.SchemeGroupVersion, "VirtualMachinePool", "virtualmachinepools", namespaced),
	entry[migrationsv1.MigrationPolicy](migrationsv1.SchemeGroupVersion, "MigrationPolicy", "migrationpolicies", clusterWide),

	entry[cdiv1.CDI](cdiv1.SchemeGroupVersion, "CDI", "cdis", clusterWide),
	entry[cdiv1.CDIConfig](cdiv1.SchemeGroupVersion, "CDIConfig", "cdiconfigs", clusterWide),
	entry[cdiv1.StorageProfile](cdiv1.SchemeGroupVersion, "StorageProfile", "storageprofiles", clusterWide),
	entry[cdiv1.DataVolume](cdiv1.SchemeGroupVersion, "DataVolume", "datavolumes", namespaced),
	entry[cdiv1.DataSource](cdiv1.SchemeGroupVersion, "DataSource", "datasources", namespaced),
	entry[cdiv1.DataImportCron](cdiv1.SchemeGroupVersion, "DataImportCron", "dataimportcrons", namespaced),
}

// kindIndex looks the table up by type and by group and resource.
type kindIndex struct {
	byType     map[reflect.Type]*Kind
	byResource map[schema.GroupResource]*Kind
	byKind     map[schema.GroupKind]*Kind
}

var kindTable = sync.OnceValue(func() kindIndex {
	ix := kindIndex{map[reflect.Type]*Kind{}, map[schema.GroupResource]*Kind{}, map[schema.GroupKind]*Kind{}}
	for _, k := range kindList {
		ix.byType[k.typ] = k
		ix.byResource[k.GroupResource()] = k
		ix.byKind[k.GVK.GroupKind()] = k
	}
	return ix
})

// Kinds returns all kinds of the table, in a fixed order.
func Kinds() []*Kind { return append([]*Kind(nil), kindList...) }

// KindFor returns the kind of the type T. It panics if T is not in the table:
// that is a mistake in the program, not in its input.
func KindFor[T Object]() *Kind {
	t := reflect.TypeFor[T]()
	if t.Kind() == reflect.Pointer {
		if k, ok := kindTable().byType[t.Elem()]; ok {
			return k
		}
	}
	panic(fmt.Sprintf("objects: no kind for type %s", t))
}

// KindOf returns the kind of o, by its Go type.
func KindOf(o Object) (*Kind, error) {
	t := reflect.TypeOf(o)
	if t != nil && t.Kind() == reflect.Pointer {
		if k, ok := kindTable().byType[t.Elem()]; ok {
			return k, nil
		}
	}
	return nil, fmt.Errorf("objects: no kind for type %T", o)
}

// KindByResource returns the kind served as the resource gr.
func KindByResource(gr schema.GroupResource) (*Kind, bool) {
	k, ok := kindTable().byResource[gr]
	return k, ok
}

// KindByGroupKind returns the kind named gk, as owner references name it.
func KindByGroupKind(gk schema.GroupKind) (*Kind, bool) {
	k, ok := kindTable().byKind[gk]
	return k, ok
}

// ParseStoreKey tells which object a store key belongs to. ok is false for
// keys of claims and of kinds that are not in the table.
func ParseStoreKey(storeKey string) (kind *Kind, key Key, ok bool) {
	rest, found := strings.CutPrefix(storeKey, "/registry/")
	if !found {
		return nil, Key{}, false
	}
	group, rest, _ := strings.Cut(rest, "/")
	resource, _, _ := strings.Cut(rest, "/")
	if group == "core" {
		group = ""
	}
	kind, found = KindByResource(schema.GroupResource{Group: group, Resource: resource})
	if !found {
		return nil, Key{}, false
	}
	key, ok = kind.keyFromStore(storeKey)
	return kind, key, ok
}
