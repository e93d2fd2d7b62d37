package kinds

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

func TestQuotasAreValidated(t *testing.T) {
	k := For[*corev1.ResourceQuota]()
	for manifest, want := range map[string]string{
		`{hard: {count/virtualmachines.kubevirt.io: 3, requests.storage: 5Gi, gold.storageclass.storage.k8s.io/requests.storage: 1Gi}}`: "",
		`{hard: {limits.cpu: 2, pods: 9, requests.hugepages-2Mi: 1Gi}}`:                                                                 "",
		`{hard: {secret: 3}}`:                        "spec.hard[secret]: Invalid value: \"secret\": must be a standard resource for quota",
		`{hard: {secrets: -1}}`:                      "must be greater than or equal to 0",
		`{hard: {count/secrets: 1500m}}`:             "must be an integer",
		`{hard: {"a b/c": 1}}`:                       "spec.hard[a b/c]",
		`{hard: {secrets: 1}, scopes: [BestEffort]}`: "spec.scopes: Forbidden",
		`{scopeSelector: {matchExpressions: [{scopeName: Terminating, operator: In}]}}`: "spec.scopeSelector: Forbidden",
	} {
		q := object(t, k, "{metadata: {name: a, namespace: ns}, spec: "+manifest+"}")
		errs := k.Validate(machine.DefaultDefaults(), q)
		if text := errs.ToAggregate(); want == "" && text != nil || want != "" && (len(errs) != 1 || !strings.Contains(text.Error(), want)) {
			t.Errorf("%s: %v, want %q", manifest, errs, want)
		}
	}
}

// A limit on what nothing here uses is accepted, as Kubernetes accepts any, but not in silence.
func TestQuotasWarnOfWhatTheyDoNotLimit(t *testing.T) {
	k := For[*corev1.ResourceQuota]()
	q := object(t, k, `{spec: {hard: {pods: 3, limits.cpu: 4, count/events: 5, count/ghosts.example.com: 1,
		count/virtualmachines.kubevirt.io: 2, cpu: 2, requests.memory: 1Gi, a.storageclass.storage.k8s.io/persistentvolumeclaims: 1}}}`)
	got := strings.Join(k.Warnings(q), "\n")
	for name, limits := range map[string]bool{
		"pods": false, "limits.cpu": false, "count/events": false, "count/ghosts.example.com": false,
		"count/virtualmachines.kubevirt.io": true, "cpu": true, "requests.memory": true, "a.storageclass.storage.k8s.io/persistentvolumeclaims": true,
	} {
		if warned := strings.Contains(got, "spec.hard["+name+"]"); warned == limits || QuotaLimits(corev1.ResourceName(name)) != limits {
			t.Errorf("%s: warned %v, want it limited: %v", name, warned, limits)
		}
	}
}

func TestCellsOfQuotas(t *testing.T) {
	k := For[*corev1.ResourceQuota]()
	q := object(t, k, `{status: {hard: {secrets: 3, requests.storage: 5Gi, limits.cpu: 1}, used: {secrets: 2, requests.storage: 1Gi}}}`)
	if got := cells(k, q); !strings.HasPrefix(got, "requests.storage: 1Gi/5Gi, secrets: 2/3|limits.cpu: 0/1|") {
		t.Errorf("got %s", got)
	}
}
