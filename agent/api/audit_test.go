package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"virtmesh/agent/api"
	"virtmesh/agent/api/audit"
	"virtmesh/raftstore/raftstoretest"
)

// The audit log says who changed or read what, for whom, and with what outcome; it has no content
// of objects, no reads of others, and nothing of strangers.
func TestRequestsAreRecorded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log, err := audit.Open(audit.Config{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	h := serve(t, raftstoretest.New(t), newAuthority(t), func(c *api.Config) { c.Audit = log })
	ctx, client := t.Context(), h.admin(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"key": "deep-secret"}}
	if _, err := client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	config := h.adminConfig(t)
	config.Impersonate = rest.ImpersonationConfig{UserName: "anna", Groups: []string{"system:masters"}}
	if err := kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("default").Delete(ctx, "none", metav1.DeleteOptions{}); err == nil {
		t.Error("what is not there was deleted")
	}
	response, err := h.anonymous().Post(h.url+"/api/v1/namespaces/default/secrets", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	h.stop()

	data, err := os.ReadFile(filepath.Join(dir, "audit", "audit.log"))
	if err != nil || strings.Contains(string(data), "deep-secret") {
		t.Fatalf("the content of a Secret is in the log, or %v", err)
	}
	type deed struct {
		user, as, verb, object string
		code                   int32
	}
	var got []deed
	for line := range strings.Lines(string(data)) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.ObjectRef == nil || e.ObjectRef.Resource != "secrets" && e.ObjectRef.Resource != "nodes" {
			continue
		}
		d := deed{user: e.User.Username, verb: e.Verb, object: e.ObjectRef.Resource + "/" + e.ObjectRef.Name, code: e.ResponseStatus.Code}
		if e.ImpersonatedUser != nil {
			d.as = e.ImpersonatedUser.Username
		}
		got = append(got, d)
	}
	want := []deed{
		{"virtmesh:admin", "", "create", "secrets/s", http.StatusCreated}, {"virtmesh:admin", "", "get", "secrets/s", http.StatusOK},
		{"virtmesh:admin", "anna", "delete", "secrets/none", http.StatusNotFound},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
