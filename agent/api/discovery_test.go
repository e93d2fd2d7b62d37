package api_test

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"

	"virtmesh/agent/kinds"
)

func TestDiscovery(t *testing.T) {
	h := start(t)
	for name, legacy := range map[string]bool{"aggregated": false, "legacy": true} {
		t.Run(name, func(t *testing.T) {
			client := discovery.NewDiscoveryClientForConfigOrDie(h.adminConfig(t))
			client.UseLegacyDiscovery = legacy
			_, lists, err := client.ServerGroupsAndResources()
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]metav1.APIResource{}
			for _, l := range lists {
				for _, r := range l.APIResources {
					found[l.GroupVersion+"/"+r.Name] = r
				}
			}
			for _, k := range kinds.All() {
				r, ok := found[k.GVK.GroupVersion().String()+"/"+k.Resource]
				if !ok || r.Kind != k.GVK.Kind || r.Namespaced != k.Namespaced || r.SingularName != k.Singular || !slices.Equal(r.ShortNames, k.ShortNames) {
					t.Errorf("%s is discovered as %+v", k.GVK.Kind, r)
				}
				_, status := found[k.GVK.GroupVersion().String()+"/"+k.Resource+"/status"]
				if status != k.Status {
					t.Errorf("%s has a status resource: %v, want %v", k.GVK.Kind, status, k.Status)
				}
			}
			for _, name := range []string{"virtualmachines/start", "virtualmachineinstances/vnc/screenshot", "virtualmachineinstances/evacuate/cancel"} {
				if r, ok := found["subresources.kubevirt.io/v1/"+name]; !ok || !r.Namespaced || len(r.Verbs) != 1 {
					t.Errorf("%s is discovered as %+v", name, r)
				}
			}
			if slices.Contains(found["v1/namespaces"].Verbs, "deletecollection") {
				t.Error("namespaces can be deleted as a collection")
			}
		})
	}
}

// Every kind has a schema that names it and nothing internal, in each version of
// the document: kubectl explain and apply find it so.
func TestOpenAPI(t *testing.T) {
	h := start(t)
	client := h.admin(t).Discovery()
	v2, err := client.OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	if len(v2.Definitions.AdditionalProperties) < 100 {
		t.Errorf("version 2 has %d definitions", len(v2.Definitions.AdditionalProperties))
	}
	paths, err := client.OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	type gvk struct{ Group, Version, Kind string }
	for _, k := range kinds.All() {
		path := "apis/" + k.GVK.Group + "/" + k.GVK.Version
		if k.GVK.Group == "" {
			path = "api/" + k.GVK.Version
		}
		data, err := paths[path].Schema("application/json")
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Components struct {
				Schemas map[string]struct {
					Description string
					GVKs        []gvk `json:"x-kubernetes-group-version-kind"`
				}
			}
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		named := false
		for _, s := range doc.Components.Schemas {
			for _, g := range s.GVKs {
				named = named || g == gvk{k.GVK.Group, k.GVK.Version, k.GVK.Kind} && s.Description != ""
				if g.Version == "__internal" {
					t.Errorf("%s: internal version in the schema of %v", path, g)
				}
			}
		}
		if !named {
			t.Errorf("%s: no schema names %s", path, k.GVK.Kind)
		}
	}
}

func TestAuthentication(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	nobody := h.config(t, "somebody", "people")
	if _, err := kubernetes.NewForConfigOrDie(nobody).CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a client in no known group: %v, want forbidden", err)
	}
	node := h.config(t, "system:node:host1", "system:nodes")
	if _, err := kubernetes.NewForConfigOrDie(node).CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("a host: %v", err)
	}
	stranger := *h
	stranger.ca = newAuthority(t)
	forged := stranger.config(t, "virtmesh:admin", "system:masters")
	forged.CAData = h.ca.pem
	if _, err := kubernetes.NewForConfigOrDie(forged).CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a certificate of another authority: %v, want unauthorized", err)
	}
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/version": 200, "/metrics": 401, "/api": 401,
		"/api/v1/namespaces/default/secrets":        401,
		"/apis/subresources.kubevirt.io/v1/version": 200,
		"/apis/subresources.kubevirt.io/v1/healthz": 200,
	} {
		r, err := h.anonymous().Get(h.url + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("without a certificate %s answers %d, want %d", path, r.StatusCode, want)
		}
	}
}

func TestReviews(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	who, err := h.admin(t).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "virtmesh:admin" || !slices.Contains(who.Status.UserInfo.Groups, "system:masters") {
		t.Errorf("who am I: %+v, %v", who, err)
	}
	attributes := &authorizationv1.ResourceAttributes{Verb: "delete", Group: "kubevirt.io", Resource: "virtualmachines"}
	can, err := h.admin(t).AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}, metav1.CreateOptions{})
	if err != nil || !can.Status.Allowed {
		t.Errorf("can I: %+v, %v", can, err)
	}
	about, err := h.admin(t).AuthorizationV1().SubjectAccessReviews().Create(ctx,
		&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "somebody", ResourceAttributes: attributes}}, metav1.CreateOptions{})
	if err != nil || about.Status.Allowed {
		t.Errorf("can somebody: %+v, %v", about, err)
	}
	_, err = h.admin(t).AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.resourceAttributes") {
		t.Errorf("an empty question: %v", err)
	}
}

func TestVersionAndMetrics(t *testing.T) {
	h := start(t)
	v, err := h.admin(t).Discovery().ServerVersion()
	if err != nil || v.GitVersion != "v1.37.2" || v.Major != "1" || v.Minor != "37" {
		t.Errorf("version %+v, %v", v, err)
	}
	data, err := h.admin(t).Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(data), "apiserver_request_duration_seconds") || !strings.Contains(string(data), "virtmesh_test_metric 1") {
		t.Errorf("metrics: %v", err)
	}
	r, err := h.anonymous().Get(h.url + "/apis/subresources.kubevirt.io/v1/version")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	if !strings.Contains(string(body), `"gitVersion":"v1.8.0"`) || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("subresources version: %s", body)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	client := h.admin(t)
	all := client.CoreV1().Namespaces()
	if err := all.Delete(ctx, "default", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deleting default: %v, want forbidden", err)
	}
	maps := client.CoreV1().ConfigMaps("ns")
	if _, err := maps.Create(ctx, newMap("a", nil), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("creating in a namespace that is not there: %v, want not found", err)
	}
	ns, err := all.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 || ns.Labels[corev1.LabelMetadataName] != "ns" {
		t.Errorf("a new namespace is %+v", ns)
	}
	if _, err := maps.Create(ctx, newMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// spec.finalizers are not for everyone.
	if ns, err = all.Patch(ctx, "ns", types.MergePatchType, []byte(`{"spec":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil || len(ns.Spec.Finalizers) != 1 {
		t.Errorf("patch: %v, finalizers %v", err, ns.Spec.Finalizers)
	}
	if err := all.Delete(ctx, "ns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err = all.Get(ctx, "ns", getOptions)
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("after delete: %v, %+v", err, ns)
	}
	if _, err := maps.Create(ctx, newMap("b", nil), metav1.CreateOptions{}); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("creating in a namespace that goes: %v", err)
	}
	ns.Spec.Finalizers = nil
	if _, err := all.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Get(ctx, "ns", getOptions); !apierrors.IsNotFound(err) {
		t.Errorf("after its last finalizer: %v, want not found", err)
	}
}

func TestSecretsTakeStringData(t *testing.T) {
	h := start(t)
	s, err := h.admin(t).CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	if err != nil || s.Type != corev1.SecretTypeOpaque || string(s.Data["a"]) != "b" || s.StringData != nil {
		t.Errorf("created %+v, %v", s, err)
	}
}
