//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// TestAUserAndHisNamespace: a user who may edit one namespace makes a machine there and nothing
// elsewhere, and is out on every host, open watches too, as soon as he is removed on one.
func TestAUserAndHisNamespace(t *testing.T) {
	ns := namespace(t, "host1")
	if _, err := virtmesh(t, "host1", "", "user", "add", "dora"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // also if the test ends before it removes him
		_, _ = program(context.Background(), nil, "--kubeconfig", kubeconfig("host1"), "user", "rm", "dora")
	})
	dora := filepath.Join(t.TempDir(), "dora")
	if err := os.WriteFile(dora, []byte(inside(t, "host1", binary, "kubeconfig", "--user", "dora", "--ttl", "1h")), 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(manifest string, args ...string) error {
		_, err := program(t.Context(), strings.NewReader(manifest), append([]string{"--kubeconfig", dora}, args...)...)
		return err
	}
	own := machine(ns, "own")
	if err := as(own, "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "dora") {
		t.Errorf("without a role: %v", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "dora"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "kubevirt.io:edit"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "dora"}},
	}
	if _, err := connect(t, "host2").RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the role to count", func(context.Context) error { return as(own, "apply", "-f", "-") })
	waitRunning(t, connect(t, "host3"), ns, "own", time.Minute)
	for what, err := range map[string]error{
		"a machine in another namespace": as(machine("default", "elsewhere"), "apply", "-f", "-"),
		"machines of another namespace":  as("", "get", "vm", "-n", "default"),
		"hosts":                          as("", "get", "nodes"),
		"the mesh":                       as("", "status"),
		"another user":                   as("", "user", "add", "eve"),
	} {
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "forbidden") && !strings.Contains(err.Error(), "only administrators") {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustEndWithDora(t, dora, ns)
	if err := as("", "get", "vm", "-n", ns); err == nil || !strings.Contains(err.Error(), "dora") {
		t.Errorf("after he was removed: %v", err)
	}
}

// mustEndWithDora opens a watch on host3, removes the user on host1, and waits for the watch to end.
func mustEndWithDora(t *testing.T, dora, ns string) {
	t.Helper()
	for _, member := range waitWhole(t).Members {
		if member.Name != "host3" {
			continue
		}
		config, err := clientcmd.BuildConfigFromFlags("https://"+member.MeshAddress, dora)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/apis/kubevirt.io/v1/namespaces/%s/virtualmachines", ns)
		stream, err := client.RESTClient().Get().AbsPath(path).Param("watch", "true").Stream(t.Context())
		if err != nil {
			t.Fatalf("watch on host3: %v", err)
		}
		defer stream.Close()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			buffer := make([]byte, 4096)
			for {
				if _, err := stream.Read(buffer); err != nil {
					return
				}
			}
		}()
		select {
		case <-ended:
			t.Fatal("the watch on host3 has ended before the user was removed")
		default:
		}
		began := time.Now()
		out, err := virtmesh(t, "host1", "", "user", "rm", "dora")
		if err != nil || !strings.Contains(out, "user dora removed; certificates that ended: 1") {
			t.Fatalf("remove the user: %v\n%s", err, out)
		}
		select {
		case <-ended:
			t.Logf("the watch on host3 ended within %s of the command on host1", time.Since(began).Round(time.Millisecond))
		case <-time.After(20 * time.Second):
			t.Error("the watch on host3 goes on")
		}
		if _, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("a request on host3: %v, want 401", err)
		}
		return
	}
	t.Error("host3 is no member")
}
