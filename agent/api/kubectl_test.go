package api_test

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestClaimGetsTheDefaultClass(t *testing.T) {
	h := start(t)
	client := kubernetes.NewForConfigOrDie(h.adminConfig(t))
	claim := func(name string, class *string) *string {
		t.Helper()
		c := &corev1.PersistentVolumeClaim{}
		c.Name, c.Spec.StorageClassName = name, class
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		made, err := client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), c, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made.Spec.StorageClassName
	}
	if got := claim("without", nil); got != nil {
		t.Errorf("without classes: %q", *got)
	}
	for name, annotation := range map[string]string{"slow": "false", "fast": "true"} {
		class := &storagev1.StorageClass{Provisioner: "virtmesh.io/pool"}
		class.Name, class.Annotations = name, map[string]string{"storageclass.kubernetes.io/is-default-class": annotation}
		if _, err := client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := claim("defaulted", nil); got == nil || *got != "fast" {
		t.Errorf("got %v, want fast", got)
	}
	none, slow := "", "slow"
	if got := claim("none", &none); *got != "" {
		t.Errorf("a claim that wants no class got %q", *got)
	}
	if got := claim("named", &slow); *got != slow {
		t.Errorf("got %q, want %q", *got, slow)
	}
	config := rest.CopyConfig(h.adminConfig(t))
	config.AcceptContentTypes = "application/json;as=Table;v=v1;g=meta.k8s.io"
	table, err := kubernetes.NewForConfigOrDie(config).StorageV1().RESTClient().Get().Resource("storageclasses").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(table), `"fast (default)"`) || strings.Contains(string(table), `"slow (default)"`) {
		t.Errorf("%s, %v", table, err)
	}
}

func TestRulesOfTheAdministrator(t *testing.T) {
	h := start(t)
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}
	got, err := kubernetes.NewForConfigOrDie(h.adminConfig(t)).AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rules := got.Status.ResourceRules; len(rules) != 1 || rules[0].Verbs[0] != "*" || rules[0].Resources[0] != "*" {
		t.Errorf("rules %+v", rules)
	}
}

// virtctl create vm asks for an instance type of the volume, if it has one.
func TestUninferredInstancetypeIsDropped(t *testing.T) {
	h := start(t)
	client := h.dynamic(t).Resource(vmResource).Namespace("default")
	obj := parse(t, vmManifest)
	for _, matcher := range []string{"instancetype", "preference"} {
		set(t, obj, "root", "spec", matcher, "inferFromVolume")
		set(t, obj, "Ignore", "spec", matcher, "inferFromVolumeFailurePolicy")
	}
	made, err := client.Create(t.Context(), obj, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec := made.Object["spec"].(map[string]any); spec["instancetype"] != nil || spec["preference"] != nil {
		t.Errorf("spec %v", spec)
	}
	obj.SetName("strict")
	set(t, obj, "Reject", "spec", "instancetype", "inferFromVolumeFailurePolicy")
	if _, err := client.Create(t.Context(), obj, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("one that must be inferred: %v", err)
	}
}
