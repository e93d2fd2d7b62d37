//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"virtmesh/agent/port/admin"
)

func meshStatus(t *testing.T, ctx context.Context, host string) (admin.Status, error) {
	t.Helper()
	var status admin.Status
	out, err := program(ctx, nil, "--kubeconfig", kubeconfig(host), "status", "-o", "json")
	// 3 says that something in the status needs attention, as two versions do.
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) {
		return status, err
	}
	return status, json.Unmarshal([]byte(out), &status)
}

// waitWhole waits until all hosts are alive and have a leader.
func waitWhole(t *testing.T) admin.Status {
	t.Helper()
	var status admin.Status
	eventually(t, 2*time.Minute, "a whole mesh", func(ctx context.Context) error {
		for i := 1; i <= hosts; i++ {
			var err error
			if status, err = meshStatus(t, ctx, fmt.Sprintf("host%d", i)); err != nil {
				return err
			}
			alive, voters := 0, 0
			for _, m := range status.Members {
				if m.State == "alive" {
					alive++
				}
				if m.Role == "leader" || m.Role == "voter" {
					voters++
				}
			}
			if alive != hosts || voters != hosts || status.Leader == "" {
				return fmt.Errorf("%d alive, %d voters, leader %q", alive, voters, status.Leader)
			}
		}
		return nil
	})
	return status
}

// Every create that was acknowledged while the leader died is there, once.
func TestNoAcknowledgedCreateIsLostWithTheLeader(t *testing.T) {
	const creates = 200
	ns := namespace(t, "host1")
	leader := waitWhole(t).Leader
	var survivors []api
	for i := 1; i <= hosts; i++ {
		if host := fmt.Sprintf("host%d", i); host != leader {
			survivors = append(survivors, connect(t, host))
		}
	}
	var mu sync.Mutex
	acknowledged := map[string]string{}
	enough, done := make(chan struct{}), make(chan struct{})
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for i := w; i < creates; i += 8 {
				name := fmt.Sprintf("burst-%03d", i)
				uid, ok := createHalted(t, survivors[i%len(survivors)], ns, name)
				if ok {
					mu.Lock()
					acknowledged[name] = uid
					if len(acknowledged) == creates/4 {
						close(enough)
					}
					mu.Unlock()
				}
			}
		})
	}
	go func() { workers.Wait(); close(done) }()
	select {
	case <-enough:
	case <-done:
		if len(acknowledged) < creates/4 {
			t.Fatalf("only %d of %d creates got through before a host was killed", len(acknowledged), creates)
		}
	}
	mustLab(t, "kill", leader)
	<-done
	t.Logf("%d of %d creates were acknowledged while %s died", len(acknowledged), creates, leader)
	list, err := survivors[0].dynamic.Resource(vms).Namespace(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, item := range list.Items {
		found[item.GetName()] = string(item.GetUID())
	}
	for name, uid := range acknowledged {
		if found[name] != uid {
			t.Errorf("%s was acknowledged with uid %s and is there with %q", name, uid, found[name])
		}
	}
	if len(acknowledged) < creates*9/10 {
		t.Errorf("only %d of %d creates got through", len(acknowledged), creates)
	}
	mustLab(t, "start", leader)
	waitWhole(t)
}

// createHalted creates a machine that does not run, retrying while the mesh
// has no leader. It returns the uid the mesh acknowledged.
func createHalted(t *testing.T, a api, ns, name string) (uid string, ok bool) {
	object := &unstructured.Unstructured{}
	manifest := strings.Replace(machine(ns, name), "runStrategy: Always", "runStrategy: Halted", 1)
	if err := yaml.Unmarshal([]byte(manifest), &object.Object); err != nil {
		t.Error(err)
		return "", false
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		created, err := a.dynamic.Resource(vms).Namespace(ns).Create(t.Context(), object, metav1.CreateOptions{})
		if err == nil {
			return string(created.GetUID()), true
		}
		if apierrors.IsAlreadyExists(err) {
			// An earlier attempt went through without an answer.
			return "", false
		}
	}
	return "", false
}

func TestJoinIsRefusedWithAReason(t *testing.T) {
	token, err := virtmesh(t, "host1", "", "token", "create", "--ttl", "1m")
	if err != nil {
		t.Fatal(err)
	}
	address := "10.201."
	for _, m := range waitWhole(t).Members {
		if m.Name == "host1" {
			address = m.MeshAddress
		}
	}
	dir := t.TempDir()
	join := func(name, token string) error {
		_, err := program(t.Context(), strings.NewReader(token), "agent", "join", address, "--token", "-", "--name", name,
			"--advertise", "127.0.0.1", "--config", dir+"/agent.yaml", "--state-dir", dir+"/state")
		return err
	}
	for name, refused := range map[string]struct{ host, token, says string }{
		"not a token":  {"host9", "nonsense", "token"},
		"taken name":   {"host2", token, "host2"},
		"wrong secret": {"host9", strings.Replace(token, "vm1.", "vm1.x", 1), "token"},
	} {
		if err := join(refused.host, refused.token); err == nil || !strings.Contains(err.Error(), refused.says) {
			t.Errorf("%s: got %v, want an error that names %q", name, err, refused.says)
		}
	}
	if out, err := lab(t.Context(), "exec", "host1", "--", binary, "agent", "init"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second init: %v %s", err, out)
	}
}

// A host that is cut off keeps its guests, and is a whole member again when
// its network is back.
func TestCutHostComesBack(t *testing.T) {
	waitWhole(t)
	mustLab(t, "cut", "host3")
	eventually(t, time.Minute, "host3 to be found dead", func(ctx context.Context) error {
		status, err := meshStatus(t, ctx, "host1")
		if err != nil && len(status.Members) == 0 {
			// A mesh with a warning exits with a status of its own.
			out, _ := program(ctx, nil, "--kubeconfig", kubeconfig("host1"), "status", "-o", "json")
			if jsonErr := json.Unmarshal([]byte(out), &status); jsonErr != nil {
				return err
			}
		}
		for _, m := range status.Members {
			if m.Name == "host3" && m.State == "dead" {
				return nil
			}
		}
		return fmt.Errorf("members %+v", status.Members)
	})
	ns := namespace(t, "host1")
	if _, ok := createHalted(t, connect(t, "host1"), ns, "meanwhile"); !ok {
		t.Error("two of three hosts cannot create a machine")
	}
	mustLab(t, "heal", "host3")
	waitWhole(t)
	if _, err := connect(t, "host3").machine(t.Context(), ns, "meanwhile"); err != nil {
		t.Errorf("host3 does not see what happened meanwhile: %v", err)
	}
}

// A fourth host joins while the mesh works, and leaves it again by itself.
func TestHostJoinsAndLeaves(t *testing.T) {
	waitWhole(t)
	guest := "host4"
	mustLab(t, "up", "--hosts", "4")
	a := connect(t, guest)
	if _, err := a.CoreV1().Nodes().Get(t.Context(), guest, metav1.GetOptions{}); err != nil {
		t.Errorf("the new host does not know itself: %v", err)
	}
	inside(t, guest, binary, "agent", "leave")
	eventually(t, time.Minute, guest+" to be forgotten", func(ctx context.Context) error {
		status, err := meshStatus(t, ctx, "host1")
		if err != nil {
			return err
		}
		if len(status.Members) != hosts {
			return fmt.Errorf("members %+v", status.Members)
		}
		_, err = connect(t, "host1").CoreV1().Nodes().Get(ctx, guest, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("its Node is still there: %v", err)
		}
		return nil
	})
	eventually(t, time.Minute, guest+" to have left", func(context.Context) error {
		_, err := os.Stat(filepath.Join(labDir, "hosts", guest, "etc", "agent.yaml"))
		if !os.IsNotExist(err) {
			return fmt.Errorf("its configuration is still there: %v", err)
		}
		return nil
	})
	mustLab(t, "kill", guest)
	waitWhole(t)
}

// When the operator says that a dead host will not come back, its machines
// start elsewhere.
func TestRemovedHostsMachinesStartElsewhere(t *testing.T) {
	const lost = "host4"
	ns := namespace(t, "host1")
	mustLab(t, "up", "--hosts", "4")
	command := func(args ...string) {
		t.Helper()
		if _, err := virtmesh(t, "host1", "", args...); err != nil {
			t.Fatal(err)
		}
	}
	command("node", "cordon", "host1", "host2", "host3")
	a := connect(t, "host1")
	apply(t, "host1", machine(ns, "survivor"))
	vmi := waitRunning(t, a, ns, "survivor", 2*time.Minute)
	command("node", "uncordon", "host1", "host2", "host3")
	if vmi.Status.NodeName != lost {
		t.Fatalf("the machine runs on %s although all hosts but %s are cordoned", vmi.Status.NodeName, lost)
	}
	mustLab(t, "kill", lost)
	eventually(t, time.Minute, lost+" to be removed", func(context.Context) error {
		_, err := virtmesh(t, "host1", "", "node", "remove", lost)
		return err
	})
	eventually(t, 2*time.Minute, "the machine to run elsewhere", func(ctx context.Context) error {
		now, err := a.instance(ctx, ns, "survivor")
		if err != nil {
			return err
		}
		if now.UID == vmi.UID || now.Status.Phase != kubevirtv1.Running {
			return fmt.Errorf("uid %s, phase %s on %s", now.UID, now.Status.Phase, now.Status.NodeName)
		}
		return nil
	})
}
