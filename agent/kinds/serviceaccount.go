package kinds

import (
	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/level"
)

func serviceAccountKind() *Kind {
	return &Kind{
		GVK: core("ServiceAccount"), Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"}, Namespaced: true,
		Object: &corev1.ServiceAccount{}, List: &corev1.ServiceAccountList{},
		Support:      "works; `secrets`, `imagePullSecrets` and `automountServiceAccountToken` are stored, and have no effect",
		Writers:      Writers{Spec: users + ", stewards/serviceaccount (`default` of each namespace)"},
		FeatureLevel: level.Access,
		Columns: []Column{
			{Name: "Secrets", Type: "integer", Description: "The number of Secrets that the account names", Value: forType(func(a *corev1.ServiceAccount) any { return int64(len(a.Secrets)) })},
			age,
		},
	}
}
