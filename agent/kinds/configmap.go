package kinds

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxSecretSize bounds the data of one Secret or ConfigMap.
const maxSecretSize = 1 << 20

func configMapKind() *Kind {
	return &Kind{
		GVK: core("ConfigMap"), Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"}, Namespaced: true,
		Object: &corev1.ConfigMap{}, List: &corev1.ConfigMapList{},
		Support:        "works as a store",
		Writers:        Writers{Spec: users},
		Sealed:         []string{"data", "binaryData"},
		SealedIfNamed:  true,
		Validate:       validateWith(validateConfigMap),
		ValidateUpdate: validateUpdateWith(validateConfigMapUpdate),
		Columns: []Column{
			{Name: "Data", Type: "integer", Value: forType(func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) })},
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
