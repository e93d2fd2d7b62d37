package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

const (
	asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
	asNames = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

// get returns the body of a request, as it comes.
func (h *host) get(t testing.TB, path, accept string) []byte {
	t.Helper()
	body, err := h.admin(t).CoreV1().RESTClient().Get().AbsPath(strings.Split(path, "?")[0]).
		RequestURI(path).SetHeader("Accept", accept).DoRaw(t.Context())
	if err != nil {
		t.Fatalf("get %s as %s: %v", path, accept, err)
	}
	return body
}

// document is a JSON or YAML object.
type document = map[string]any

func parseDocument(t testing.TB, text []byte) document {
	t.Helper()
	var d document
	if err := yaml.Unmarshal(text, &d); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return d
}

// fillLists creates what the lists of these tests have: a machine as another version
// stores it, one as this version does, and two config maps.
func fillLists(t *testing.T, h *host) {
	t.Helper()
	storeNewerMachine(t, h)
	machine := parse(t, vmManifest)
	machine.SetName("another")
	machine.SetAnnotations(map[string]string{"odd": "<&>\u2028\"metadata\":{}}\\\\\"{"})
	if _, err := h.dynamic(t).Resource(vmResource).Namespace("default").Create(t.Context(), machine, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		m := newMap(name, map[string]string{"name": name})
		m.Data = map[string]string{"key": "value of " + name}
		if _, err := h.admin(t).CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	vmsPath  = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines"
	mapsPath = "/api/v1/namespaces/default/configmaps"
)

// TestListsHaveWhatGetHas: in every form of a list, each object is the one that a client
// gets which asks for it alone. Only the objects of custom resources, and those of watches,
// have their kind.
func TestListsHaveWhatGetHas(t *testing.T) {
	h := start(t)
	fillLists(t, h)
	for path, names := range map[string][]string{vmsPath: {"another", "testvm"}, mapsPath: {"a", "b"}} {
		want := map[string]document{}
		for _, name := range names {
			want[name] = parseDocument(t, h.get(t, path+"/"+name, "application/json"))
		}
		for _, query := range []string{"", "?pretty=true", "?limit=2", "?labelSelector=name%21%3Dc", "?fieldSelector=metadata.name%21%3Dc", "?resourceVersion=0"} {
			for _, accept := range []string{"application/json", "application/yaml"} {
				list := parseDocument(t, h.get(t, path+query, accept))
				checkList(t, fmt.Sprintf("%s%s as %s", path, query, accept), list, names, want)
			}
		}
	}
}

func checkList(t *testing.T, what string, list document, names []string, want map[string]document) {
	t.Helper()
	items, _ := list["items"].([]any)
	if len(items) != len(names) || at(list, "metadata", "resourceVersion") == "" {
		t.Fatalf("%s: %v", what, list)
	}
	for i, name := range names {
		wanted := want[name]
		if list["kind"] != wanted["kind"].(string)+"List" || list["apiVersion"] != wanted["apiVersion"] {
			t.Errorf("%s is a %s of %s", what, list["kind"], list["apiVersion"])
		}
		if list["apiVersion"] == "v1" {
			wanted = document{}
			for field, value := range want[name] {
				if field != "kind" && field != "apiVersion" {
					wanted[field] = value
				}
			}
		}
		if !reflect.DeepEqual(items[i], any(wanted)) {
			t.Errorf("%s: %s is\n%v\nwant\n%v", what, name, items[i], wanted)
		}
	}
}

// TestWatchesHaveWhatGetHas: a watch delivers each object as a client gets it that asks for
// it alone.
func TestWatchesHaveWhatGetHas(t *testing.T) {
	h := start(t)
	fillLists(t, h)
	for path, names := range map[string][]string{vmsPath: {"another", "testvm"}, mapsPath: {"a", "b"}} {
		for _, query := range []string{"?watch=1", "?watch=1&labelSelector=name%21%3Dc"} {
			body, err := h.admin(t).CoreV1().RESTClient().Get().RequestURI(path+query).SetHeader("Accept", "application/json").Stream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(body)
			for _, name := range names {
				line, err := lines.ReadBytes('\n')
				if err != nil {
					t.Fatal(err)
				}
				want := document{"type": "ADDED", "object": any(parseDocument(t, h.get(t, path+"/"+name, "application/json")))}
				if got := parseDocument(t, line); !reflect.DeepEqual(got, want) {
					t.Errorf("%s%s: got\n%v\nwant\n%v", path, query, got, want)
				}
			}
			_ = body.Close()
		}
	}
}

// TestListsAsTablesAndNames: what a table and a list of metadata hold is what the objects
// hold, and an empty list is an empty list.
func TestListsAsTablesAndNames(t *testing.T) {
	h := start(t)
	fillLists(t, h)
	for path, names := range map[string][]string{vmsPath: {"another", "testvm"}, mapsPath: {"a", "b"}} {
		table := parseDocument(t, h.get(t, path, asTable))
		metadata := parseDocument(t, h.get(t, path, asNames))
		whole := parseDocument(t, h.get(t, path+"?includeObject=Object", asTable))
		for i, name := range names {
			want := parseDocument(t, h.get(t, path+"/"+name, "application/json"))
			if got := at(table, "rows", i, "cells", 0); got != name {
				t.Errorf("row %d of %s begins with %v", i, path, got)
			}
			for what, got := range map[string]any{
				"table": at(table, "rows", i, "object", "metadata"), "list of metadata": at(metadata, "items", i, "metadata"),
			} {
				if !reflect.DeepEqual(got, want["metadata"]) {
					t.Errorf("the %s of %s has\n%v\nwant\n%v", what, path, got, want["metadata"])
				}
			}
			if got := at(whole, "rows", i, "object"); !reflect.DeepEqual(got, any(want)) {
				t.Errorf("the table of %s with objects has\n%v\nwant\n%v", path, got, want)
			}
		}
		for accept, field := range map[string]string{"application/json": "items", asTable: "rows"} {
			empty := parseDocument(t, h.get(t, path+"?labelSelector=name%3Dc", accept))
			if got, ok := empty[field].([]any); !ok || len(got) != 0 {
				t.Errorf("an empty list of %s as %s has %v", path, accept, empty)
			}
		}
	}
}

// TestListsAsProtobuf: clients that ask for protobuf get the objects that others get.
func TestListsAsProtobuf(t *testing.T) {
	h := start(t)
	fillLists(t, h)
	long := newMap("long", nil)
	long.Data = map[string]string{"key": strings.Repeat("value ", 100_000)}
	if _, err := h.admin(t).CoreV1().ConfigMaps("default").Create(t.Context(), long, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(h.adminConfig(t))
	config.ContentType = runtime.ContentTypeProtobuf
	text, err := h.admin(t).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	maps := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps("default")
	binary, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(binary.Items) != 3 || !reflect.DeepEqual(text, binary) {
		t.Errorf("protobuf %.300v, JSON %.300v", binary, text)
	}
	w, err := maps.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range binary.Items {
		if e := nextEvent(t, w); !reflect.DeepEqual(e.Object.(*corev1.ConfigMap), &binary.Items[i]) {
			t.Errorf("the watch has %v, the list %v", e.Object, binary.Items[i])
		}
	}
}

// TestLongListsAreCompressed for clients that accept that.
func TestLongListsAreCompressed(t *testing.T) {
	h := start(t)
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	for i := range 3 {
		m := newMap(fmt.Sprint("m", i), nil)
		m.Data = map[string]string{"key": strings.Repeat("value ", 10_000)}
		if _, err := maps.Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	transport, err := rest.TransportFor(h.adminConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{mapsPath: "gzip", mapsPath + "?limit=1": ""} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", "gzip")
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if got := response.Header.Get("Content-Encoding"); got != want {
			t.Errorf("the encoding of %s is %q, want %q", path, got, want)
		}
	}
	var list corev1.ConfigMapList
	if err := json.Unmarshal(h.get(t, mapsPath, "application/json"), &list); err != nil || len(list.Items) != 3 {
		t.Errorf("%d config maps, %v", len(list.Items), err)
	}
}
