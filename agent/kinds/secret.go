package kinds

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func secretKind() *Kind {
	return &Kind{
		GVK: core("Secret"), Resource: "secrets", Singular: "secret", Namespaced: true,
		Object: &corev1.Secret{}, List: &corev1.SecretList{},
		Support:        "works as a store; instances use Secrets for cloud-init and pulling images",
		Writers:        Writers{Spec: users},
		Sealed:         []string{"data"},
		Default:        defaultWith(defaultSecret),
		DefaultUpdate:  defaultUpdateWith(func(s, old *corev1.Secret) { defaultSecret(s) }),
		Validate:       validateWith(validateSecret),
		ValidateUpdate: validateUpdateWith(validateSecretUpdate),
		Columns: []Column{
			column("Type", func(s *corev1.Secret) any { return string(s.Type) }),
			{Name: "Data", Type: "integer", Value: forType(func(s *corev1.Secret) any { return int64(len(s.Data)) })},
			age,
		},
		Fields: map[string]func(obj runtimeObject) string{
			"type": forType(func(s *corev1.Secret) string { return string(s.Type) }),
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
