package kinds

import (
	"reflect"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxSecretSize bounds the data of one Secret or ConfigMap.
const maxSecretSize = 1 << 20

func core(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

func coreKinds() []*Kind {
	return []*Kind{
		namespaceKind(),
		nodeKind(),
		secretKind(),
		configMapKind(),
		eventKind(),
		persistentVolumeClaimKind(),
	}
}

func secretKind() *Kind {
	return &Kind{
		GVK: core("Secret"), Resource: "secrets", Singular: "secret", Namespaced: true,
		Object: &corev1.Secret{}, List: &corev1.SecretList{},
		Default:        do(defaultSecret),
		DefaultUpdate:  change(func(s, old *corev1.Secret) { defaultSecret(s) }),
		Validate:       on(validateSecret),
		ValidateUpdate: both(validateSecretUpdate),
		Columns: []Column{
			column("Type", func(s *corev1.Secret) any { return string(s.Type) }),
			{Name: "Data", Type: "integer", Value: on(func(s *corev1.Secret) any { return int64(len(s.Data)) })},
			age,
		},
		Fields: map[string]func(obj runtimeObject) string{
			"type": on(func(s *corev1.Secret) string { return string(s.Type) }),
		},
	}
}

// defaultSecret merges the write-only stringData into data and sets the type.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	size := 0
	var errs field.ErrorList
	for k, v := range s.Data {
		size += len(v)
		errs = append(errs, validateDataKey(field.NewPath("data").Key(k), k)...)
	}
	if size > maxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath("data"), "", maxSecretSize))
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := validateSecret(s)
	if s.Type != old.Type {
		errs = append(errs, immutable(field.NewPath("type"), s.Type))
	}
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "an immutable secret cannot be made mutable"))
		}
		if !reflect.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), "the secret is immutable"))
		}
	}
	return errs
}

func configMapKind() *Kind {
	return &Kind{
		GVK: core("ConfigMap"), Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"}, Namespaced: true,
		Object: &corev1.ConfigMap{}, List: &corev1.ConfigMapList{},
		Validate:       on(validateConfigMap),
		ValidateUpdate: both(validateConfigMapUpdate),
		Columns: []Column{
			{Name: "Data", Type: "integer", Value: on(func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) })},
			age,
		},
	}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	size := 0
	var errs field.ErrorList
	for k, v := range c.Data {
		size += len(v)
		errs = append(errs, validateDataKey(field.NewPath("data").Key(k), k)...)
		if _, twice := c.BinaryData[k]; twice {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(k), k, "the key is in binaryData too"))
		}
	}
	for k, v := range c.BinaryData {
		size += len(v)
		errs = append(errs, validateDataKey(field.NewPath("binaryData").Key(k), k)...)
	}
	if size > maxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxSecretSize))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	errs := validateConfigMap(c)
	if old.Immutable == nil || !*old.Immutable {
		return errs
	}
	if c.Immutable == nil || !*c.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "an immutable config map cannot be made mutable"))
	}
	if !reflect.DeepEqual(c.Data, old.Data) || !reflect.DeepEqual(c.BinaryData, old.BinaryData) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "the config map is immutable"))
	}
	return errs
}

func validateDataKey(path *field.Path, key string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(path, key, msg))
	}
	return errs
}

func persistentVolumeClaimKind() *Kind {
	type pvc = corev1.PersistentVolumeClaim
	return &Kind{
		GVK: core("PersistentVolumeClaim"), Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim",
		ShortNames: []string{"pvc"}, Namespaced: true, Status: true,
		Object: &pvc{}, List: &corev1.PersistentVolumeClaimList{},
		Default:        do(defaultPVC),
		Validate:       on(validatePVC),
		ValidateUpdate: both(validatePVCUpdate),
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
			wide("VolumeMode", func(p *pvc) any { return orNone(string(deref(p.Spec.VolumeMode))) }),
		},
	}
}

func defaultPVC(p *corev1.PersistentVolumeClaim) {
	p.Status.Phase = corev1.ClaimPending
	if p.Spec.VolumeMode == nil {
		mode := corev1.PersistentVolumeFilesystem
		p.Spec.VolumeMode = &mode
	}
}

func validatePVC(p *corev1.PersistentVolumeClaim) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if len(p.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), "at least one access mode is required"))
	}
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod}
	for i, m := range p.Spec.AccessModes {
		errs = append(errs, oneOf(path.Child("accessModes").Index(i), m, known)...)
	}
	req := path.Child("resources", "requests").Key(string(corev1.ResourceStorage))
	switch q, ok := p.Spec.Resources.Requests[corev1.ResourceStorage]; {
	case !ok:
		errs = append(errs, field.Required(req, ""))
	case q.Sign() <= 0:
		errs = append(errs, field.Invalid(req, q.String(), "must be greater than zero"))
	}
	modes := []corev1.PersistentVolumeMode{corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeBlock}
	if p.Spec.VolumeMode != nil {
		errs = append(errs, oneOf(path.Child("volumeMode"), *p.Spec.VolumeMode, modes)...)
	}
	if c := p.Spec.StorageClassName; c != nil && *c != "" {
		for _, msg := range validation.IsDNS1123Subdomain(*c) {
			errs = append(errs, field.Invalid(path.Child("storageClassName"), *c, msg))
		}
	}
	return errs
}

// validatePVCUpdate lets a claim grow and, while it has none, take a volume and a
// class. All else of its spec stays.
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

func immutable(path *field.Path, value any) *field.Error {
	return field.Invalid(path, value, "field is immutable")
}

// oneOf reports a value that is not one of known.
func oneOf[T ~string](path *field.Path, value T, known []T) field.ErrorList {
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, known)}
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// joined renders a list, or nil for none.
func joined(parts []string) any {
	if len(parts) == 0 {
		return nil
	}
	return strings.Join(parts, ",")
}
