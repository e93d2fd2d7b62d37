package store_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	apistorage "k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/api/store"
)

// listPage lists one page.
func listPage(t *testing.T, s *store.Store, limit int64, token, selector string) *corev1.ConfigMapList {
	t.Helper()
	wanted, err := labels.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	list := &corev1.ConfigMapList{}
	err = s.GetList(t.Context(), "/registry/core/configmaps/default", apistorage.ListOptions{
		Recursive: true,
		Predicate: apistorage.SelectionPredicate{
			Label: wanted, Field: fields.Everything(), GetAttrs: apistorage.DefaultNamespaceScopedAttr, Limit: limit, Continue: token,
		},
	}, list)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestRemainingItemCount pages through a list while objects come and go. Each page says
// how many objects of the list are left: those of the revision of the first page. With a
// selector it says nothing, as the API's conventions allow.
func TestRemainingItemCount(t *testing.T) {
	const objects, limit = 250, 50
	s := newMaps(t, newTestBackend(t))
	create := func(name string) {
		t.Helper()
		m := newMap()
		m.Name, m.Labels = name, map[string]string{"app": "a"}
		if err := s.Create(t.Context(), "/registry/core/configmaps/default/"+name, m, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range objects {
		create(fmt.Sprintf("m-%03d", i))
	}
	var seen int
	var token, version string
	for page := range objects / limit {
		list := listPage(t, s, limit, token, "")
		if version == "" {
			version = list.ResourceVersion
		}
		seen += len(list.Items)
		left := objects - seen
		switch {
		case len(list.Items) != limit || list.ResourceVersion != version:
			t.Fatalf("page %d has %d objects at revision %s, the first was at %s", page, len(list.Items), list.ResourceVersion, version)
		case left == 0 && (list.RemainingItemCount != nil || list.Continue != ""):
			t.Fatalf("the last page goes on with %q, and leaves %v", list.Continue, list.RemainingItemCount)
		case left > 0 && (list.RemainingItemCount == nil || *list.RemainingItemCount != int64(left)):
			t.Fatalf("page %d leaves %v objects, want %d", page, list.RemainingItemCount, left)
		}
		token = list.Continue
		// One that was not listed yet goes, and some come before and behind.
		gone := fmt.Sprintf("/registry/core/configmaps/default/m-%03d", objects-1-page)
		if err := s.Delete(t.Context(), gone, &corev1.ConfigMap{}, nil, apistorage.ValidateAllObjectFunc, nil, apistorage.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		create(fmt.Sprintf("a-%d", page))
		create(fmt.Sprintf("z-%d", page))
	}
	if list := listPage(t, s, limit, "", "app=a"); len(list.Items) != limit || list.Continue == "" || list.RemainingItemCount != nil {
		t.Errorf("a page with a selector has %d objects and goes on with %q, leaving %v", len(list.Items), list.Continue, list.RemainingItemCount)
	}
}
