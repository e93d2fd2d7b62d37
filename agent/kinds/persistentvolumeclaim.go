package kinds

import (
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	machine "virtmesh/agent/vmi"
)

// VolumeFinalizer prevents the deletion of a claim until its volume is deleted.
const VolumeFinalizer = "virtmesh.io/volume"

// Annotations that say where the volume of a claim is, once that is decided.
const (
	// SelectedNode names the host that holds the volume. The annotation is Kubernetes' own.
	// A claim in a shared pool does not have it.
	SelectedNode = "volume.kubernetes.io/selected-node"
	// VolumePool names the pool that holds the volume.
	VolumePool = "virtmesh.io/pool"
)

// Annotations that fill a new volume from a container disk, as CDI's do: "registry" and
// "docker://image".
const (
	ImportSource   = "cdi.kubevirt.io/storage.import.source"
	ImportEndpoint = "cdi.kubevirt.io/storage.import.endpoint"
)

// ImportScheme begins the endpoint of an import from a registry.
const ImportScheme = "docker://"

func persistentVolumeClaimKind() *Kind {
	type pvc = corev1.PersistentVolumeClaim
	return &Kind{
		GVK: core("PersistentVolumeClaim"), Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim",
		ShortNames: []string{"pvc"}, Namespaced: true, Status: true,
		Object: &pvc{}, List: &corev1.PersistentVolumeClaimList{},
		Support: "works, on directory pools. It is Bound once its volume is there. There is no PersistentVolume kind, so a retained volume is not shown. Growing a claim is not acted on. A claim `persistent-state-for-NAME` has no volume: it says which host has what a TPM and firmware keep",
		Writers: Writers{Spec: "users; stewards/vm; a class that is not named by the API; the volume's name by host/volumes, also for host/executor", Status: "host/volumes, also for host/executor"},
		Finalizers: map[string]string{
			VolumeFinalizer: "host/volumes",
		},
		Default:        defaultWith(defaultPVC),
		DefaultUpdate:  defaultUpdateWith(func(p, _ *pvc) { defaultVolumeMode(p) }),
		Validate:       validateWith(validatePVC),
		ValidateUpdate: validateUpdateWith(validatePVCUpdate),
		Columns: []Column{
			column("Status", func(p *pvc) any {
				if p.DeletionTimestamp != nil {
					return "Terminating"
				}
				return string(p.Status.Phase)
			}),
			column("Volume", func(p *pvc) any { return p.Spec.VolumeName }),
			column("Capacity", func(p *pvc) any {
				if q, ok := p.Status.Capacity[corev1.ResourceStorage]; ok {
					return q.String()
				}
				return ""
			}),
			column("Access Modes", func(p *pvc) any { return accessModes(p.Status.AccessModes) }),
			column("StorageClass", func(p *pvc) any { return deref(p.Spec.StorageClassName) }),
			age,
			wideColumn("VolumeMode", func(p *pvc) any { return orNone(string(deref(p.Spec.VolumeMode))) }),
		},
	}
}

func defaultPVC(p *corev1.PersistentVolumeClaim) {
	p.Status.Phase = corev1.ClaimPending
	defaultVolumeMode(p)
}

// defaultVolumeMode fills in the mode, also of a claim that is replaced by the manifest
// that made it.
func defaultVolumeMode(p *corev1.PersistentVolumeClaim) {
	if p.Spec.VolumeMode == nil {
		mode := corev1.PersistentVolumeFilesystem
		p.Spec.VolumeMode = &mode
	}
}

// validateImport checks the image that a new volume is to be filled with.
func validateImport(p *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("metadata", "annotations").Key(ImportEndpoint)
	endpoint := p.Annotations[ImportEndpoint]
	switch {
	case p.Annotations[ImportSource] != "registry" || endpoint == "":
		return nil
	case !strings.HasPrefix(endpoint, ImportScheme):
		return field.ErrorList{field.Invalid(at, endpoint, "must begin with "+ImportScheme)}
	}
	return machine.ValidateImage(at, endpoint)
}

func validatePVC(p *corev1.PersistentVolumeClaim) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if len(p.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), "at least one access mode is required"))
	}
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod}
	for i, m := range p.Spec.AccessModes {
		errs = append(errs, checkOneOf(path.Child("accessModes").Index(i), m, known)...)
	}
	errs = append(errs, validateImport(p)...)
	req := path.Child("resources", "requests").Key(string(corev1.ResourceStorage))
	switch q, ok := p.Spec.Resources.Requests[corev1.ResourceStorage]; {
	case !ok:
		errs = append(errs, field.Required(req, ""))
	case q.Sign() <= 0:
		errs = append(errs, field.Invalid(req, q.String(), "must be greater than zero"))
	}
	modes := []corev1.PersistentVolumeMode{corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeBlock}
	if p.Spec.VolumeMode != nil {
		errs = append(errs, checkOneOf(path.Child("volumeMode"), *p.Spec.VolumeMode, modes)...)
	}
	if c := p.Spec.StorageClassName; c != nil && *c != "" {
		for _, msg := range validation.IsDNS1123Subdomain(*c) {
			errs = append(errs, field.Invalid(path.Child("storageClassName"), *c, msg))
		}
	}
	return errs
}

// validatePVCUpdate allows a claim to grow and, while they are unset, to set volumeName
// and storageClassName. The rest of its spec is immutable.
func validatePVCUpdate(p, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validatePVC(p)
	path := field.NewPath("spec")
	size, was := p.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(was) < 0 {
		errs = append(errs, field.Forbidden(path.Child("resources", "requests", "storage"), "a claim cannot shrink"))
	}
	same := p.Spec.DeepCopy()
	same.Resources = old.Spec.Resources
	if old.Spec.VolumeName == "" {
		same.VolumeName = ""
	}
	if old.Spec.StorageClassName == nil {
		same.StorageClassName = nil
	}
	if !equal(same, &old.Spec) {
		errs = append(errs, field.Forbidden(path, "is immutable after creation except for resources.requests, and volumeName and storageClassName while they are unset"))
	}
	return errs
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{
		corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
	}
	var out []string
	for _, m := range modes {
		out = append(out, short[m])
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}
