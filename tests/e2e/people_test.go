//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// TestRevokedCertificateEndsOnAllHosts: a person's certificate is listed, and ends on every
// host when it is revoked on one of them: also for what is open.
func TestRevokedCertificateEndsOnAllHosts(t *testing.T) {
	eve := filepath.Join(t.TempDir(), "eve")
	if err := os.WriteFile(eve, []byte(inside(t, "host1", binary, "kubeconfig", "--user", "eve", "--admin", "--ttl", "1h")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := virtmesh(t, "host2", "", "cert", "ls"); err != nil || !strings.Contains(out, "eve ") {
		t.Fatalf("the list of certificates: %v\n%s", err, out)
	}
	ended := map[string]<-chan struct{}{}
	for _, member := range waitWhole(t).Members {
		config, err := clientcmd.BuildConfigFromFlags("https://"+member.MeshAddress, eve)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		watch, err := client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatalf("watch on %s: %v", member.Name, err)
		}
		t.Cleanup(watch.Stop)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range watch.ResultChan() {
			}
		}()
		ended[member.Name] = done
	}
	if _, err := virtmesh(t, "host3", "", "cert", "revoke", "eve"); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	for host, done := range ended {
		select {
		case <-done:
			t.Logf("the watch on %s ended %s after the revocation", host, time.Since(revoked).Round(time.Millisecond))
		case <-time.After(20 * time.Second):
			t.Errorf("the watch on %s goes on", host)
		}
	}
	for says, command := range map[string][]string{"revoked by virtmesh:admin": {"cert", "ls"}, "root on any host makes a new one": {"get", "nodes"}} {
		if _, err := program(t.Context(), nil, append([]string{"--kubeconfig", eve}, command...)...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s with a revoked certificate: %v", command, err)
		}
	}
	if _, err := virtmesh(t, "host1", "", "get", "nodes"); err != nil {
		t.Errorf("the certificate of another: %v", err)
	}
}
