package kinds

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultClass is the annotation that, if "true", marks the StorageClass for claims
// that name no class.
const DefaultClass = "storageclass.kubernetes.io/is-default-class"

// DefaultPool is the pool of claims without a StorageClass when no class is the default.
const DefaultPool = "local"

// parameterPool is the parameter of a StorageClass that names the pool, as for KubeVirt's
// hostpath provisioner.
const parameterPool = "storagePool"

// PoolOf returns the name of a class's pool: its storagePool parameter, or the class's own
// name. A nil class stands for a claim that has none.
func PoolOf(class *storagev1.StorageClass) string {
	switch {
	case class == nil:
		return DefaultPool
	case class.Parameters[parameterPool] != "":
		return class.Parameters[parameterPool]
	}
	return class.Name
}

func storageClassKind() *Kind {
	type class = storagev1.StorageClass
	return &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("StorageClass"), Resource: "storageclasses", Singular: "storageclass", ShortNames: []string{"sc"},
		Object: &class{}, List: &storagev1.StorageClassList{},
		Support:        "works: `parameters.storagePool`, the default-class annotation, which gives a new claim its class, and `reclaimPolicy`: `Delete`, or `Retain`, which leaves the volume in its pool when the claim goes. Pool and policy count at the first use of a claim. `provisioner`, `volumeBindingMode` and `allowVolumeExpansion` are accepted: volumes are always made at their first use",
		Writers:        Writers{Spec: users},
		Default:        defaultWith(defaultStorageClass),
		DefaultUpdate:  defaultUpdateWith(func(c, _ *class) { defaultStorageClass(c) }),
		Validate:       validateWith(validateStorageClass),
		ValidateUpdate: validateUpdateWith(validateStorageClassUpdate),
		Columns: []Column{
			column("Provisioner", func(c *class) any { return c.Provisioner }),
			column("ReclaimPolicy", func(c *class) any { return string(deref(c.ReclaimPolicy)) }),
			column("VolumeBindingMode", func(c *class) any { return string(deref(c.VolumeBindingMode)) }),
			column("AllowVolumeExpansion", func(c *class) any { return deref(c.AllowVolumeExpansion) }),
			age,
		},
		NameCell: forType(func(c *class) string {
			if c.Annotations[DefaultClass] == "true" {
				return c.Name + " (default)"
			}
			return c.Name
		}),
	}
}

func defaultStorageClass(c *storagev1.StorageClass) {
	if c.ReclaimPolicy == nil {
		policy := corev1.PersistentVolumeReclaimDelete
		c.ReclaimPolicy = &policy
	}
	if c.VolumeBindingMode == nil {
		mode := storagev1.VolumeBindingImmediate
		c.VolumeBindingMode = &mode
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	if c.Provisioner == "" {
		errs = append(errs, field.Required(field.NewPath("provisioner"), ""))
	}
	policies := []corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}
	errs = append(errs, checkOneOf(field.NewPath("reclaimPolicy"), deref(c.ReclaimPolicy), policies)...)
	modes := []storagev1.VolumeBindingMode{storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer}
	errs = append(errs, checkOneOf(field.NewPath("volumeBindingMode"), deref(c.VolumeBindingMode), modes)...)
	return errs
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateStorageClass(c)
	if c.Provisioner != old.Provisioner {
		errs = append(errs, field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden"))
	}
	if !equal(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden"))
	}
	if deref(c.ReclaimPolicy) != deref(old.ReclaimPolicy) {
		errs = append(errs, field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden"))
	}
	if deref(c.VolumeBindingMode) != deref(old.VolumeBindingMode) {
		errs = append(errs, immutable(field.NewPath("volumeBindingMode"), deref(c.VolumeBindingMode)))
	}
	return errs
}
