//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const stoppedConfig = "/etc/virtmesh/stopped.yaml"

// stopAgent stops the agent of a host and keeps it stopped. Guests do not notice.
func stopAgent(t *testing.T, host string) {
	t.Helper()
	inside(t, host, "sh", "-c", killAgentScript(stoppedConfig))
}

// killAgentScript returns the shell commands that keep a host's agent stopped, with its
// configuration put aside, and end when its process is gone. One that is killed while it writes
// to the disk loses its command line at once, and keeps its sockets open until that is written.
func killAgentScript(aside string) string {
	return `mv /etc/virtmesh/agent.yaml ` + aside + `; while pids=$(pgrep -f "[v]irtmesh agent run"); do kill -9 $pids; for pid in $pids; do while [ -e /proc/$pid ]; do sleep 0.1; done; done; done`
}

func startAgent(t *testing.T, host string) {
	t.Helper()
	inside(t, host, "mv", stoppedConfig, "/etc/virtmesh/agent.yaml")
}

// waitReplaced waits until the agent of a host knows that the mesh was recovered without
// it.
func waitReplaced(t *testing.T, host string) {
	t.Helper()
	eventually(t, 2*time.Minute, host+" to know that its state was replaced", func(ctx context.Context) error {
		out, err := lab(ctx, "exec", host, "--", binary, "--socket", "/run/virtmesh/agent.sock", "status", "-o", "json")
		if !strings.Contains(out, "replaced by a recovery") {
			return fmt.Errorf("status: %s: %w", out, err)
		}
		return nil
	})
}

// resyncHost gives a host the state of the mesh that was recovered.
func resyncHost(t *testing.T, host string) {
	t.Helper()
	stopAgent(t, host)
	inside(t, host, binary, "agent", "resync", "--yes", "--config", stoppedConfig)
	startAgent(t, host)
}

// part drops all packets between a host and others, until the returned function is called.
// Unlike a cut cable, the test still reaches the host.
func part(t *testing.T, host string, others []string) (join func()) {
	t.Helper()
	addresses := strings.Join(others, ", ")
	inside(t, host, "nft", "table inet parted { chain in { type filter hook input priority -10; ip saddr { "+addresses+" } drop; }; "+
		"chain out { type filter hook output priority -10; ip daddr { "+addresses+" } drop; }; }")
	return func() { inside(t, host, "nft", "delete table inet parted") }
}

// on lets a machine run on one host only, and gives it a run strategy.
func on(host string, strategy kubevirtv1.VirtualMachineRunStrategy) func(*kubevirtv1.VirtualMachine) {
	return func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.RunStrategy = &strategy
		if host != "" {
			vm.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: host}
		}
	}
}

// A mesh is recovered on a host whose copy is old, while the other hosts live on without
// it. No machine runs twice, and nothing goes back in time.
func TestRecoveryNeverRunsAMachineTwice(t *testing.T) {
	const last = "host3"
	var others []string
	for _, m := range waitWhole(t).Members {
		if m.Name != last {
			address, _, _ := strings.Cut(m.MeshAddress, ":")
			others = append(others, address)
		}
	}
	ns := namespace(t, last)
	lost := connect(t, "host1")
	apply(t, last, machine(ns, "stays", on(last, kubevirtv1.RunStrategyAlways)))
	apply(t, last, machine(ns, "moved", on("", kubevirtv1.RunStrategyHalted)))
	stays := waitRunning(t, lost, ns, "stays", 3*time.Minute)
	staysID := domainID(t, last, ns, "stays")

	stopAgent(t, last)
	out, err := lab(t.Context(), "exec", last, "--", binary, "agent", "recover", "--yes", "--config", stoppedConfig)
	if err == nil || !strings.Contains(err.Error(), "has a leader") {
		t.Fatalf("recovered while the others have a leader: %v\n%s", err, out)
	}
	// The copy of the last host does not get any of this.
	apply(t, "host1", machine(ns, "moved", on("host1", kubevirtv1.RunStrategyAlways)))
	apply(t, "host1", machine(ns, "unknown", on("host1", kubevirtv1.RunStrategyAlways)))
	first := waitRunning(t, lost, ns, "moved", 3*time.Minute)
	waitRunning(t, lost, ns, "unknown", 3*time.Minute)
	before := seen(t, lost, ns)

	join := part(t, last, others)
	if out, err := lab(t.Context(), "exec", last, "--", binary, "agent", "recover", "--yes", "--config", stoppedConfig); err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	startAgent(t, last)
	a := connect(t, last)
	waitNamed(t, last, []string{"host1", "host2"}, []string{last})
	expectPastEnded(t, a, ns, before)

	if _, err := virtmesh(t, last, "", "vm", "start", "moved", "-n", ns); err != nil {
		t.Fatal(err)
	}
	apply(t, last, machine(ns, "fresh", on(last, kubevirtv1.RunStrategyAlways)))
	waitRunning(t, a, ns, "fresh", 3*time.Minute)
	waitFault(t, a, ns, "moved", "may still run on host1, host2")
	join()
	waitReplaced(t, "host1")
	waitReplaced(t, "host2")
	resyncHost(t, "host2")
	waitNamed(t, last, []string{"host1"}, []string{"host2", last})
	waitFault(t, a, ns, "moved", "may still run on host1:")
	if domainID(t, "host1", ns, "moved") == "" || domainID(t, "host1", ns, "unknown") == "" {
		t.Error("a guest of a host that waits for its resync was stopped")
	}

	resyncHost(t, "host1")
	second := waitRunning(t, a, ns, "moved", 3*time.Minute)
	if second.UID == first.UID {
		t.Errorf("the recovered mesh knows instance %s, which was made after its copy", first.UID)
	}
	running := 0
	for i := 1; i <= hosts; i++ {
		if domainID(t, fmt.Sprintf("host%d", i), ns, "moved") != "" {
			running++
		}
	}
	if running != 1 {
		t.Errorf("moved runs %d times", running)
	}
	waitNamed(t, last, nil, []string{"host1", "host2", last})
	if id := domainID(t, "host1", ns, "unknown"); id != "" {
		t.Errorf("a guest that the recovered mesh does not know runs as %s", id)
	}
	if now, err := a.instance(t.Context(), ns, "stays"); err != nil || now.UID != stays.UID || domainID(t, last, ns, "stays") != staysID {
		t.Errorf("the guest of %s did not run through: %v", last, err)
	}
	waitWhole(t)
}

// domainID returns libvirt's ID of the guest of a machine on a host, "" if none runs.
func domainID(t *testing.T, host, ns, name string) string {
	t.Helper()
	for _, line := range strings.Split(inside(t, host, "virsh", "list"), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == ns+"_"+name {
			return fields[0]
		}
	}
	return ""
}

// past is what a client saw before a recovery.
type past struct {
	list    string
	machine *kubevirtv1.VirtualMachine
}

func seen(t *testing.T, a api, ns string) past {
	t.Helper()
	list, err := a.dynamic.Resource(vms).Namespace(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vm, err := a.machine(t.Context(), ns, "moved")
	if err != nil {
		t.Fatal(err)
	}
	return past{list.GetResourceVersion(), vm}
}

// expectPastEnded checks that what a client saw before the recovery is refused after it.
func expectPastEnded(t *testing.T, a api, ns string, before past) {
	t.Helper()
	now, err := a.dynamic.Resource(vms).Namespace(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old, _ := strconv.ParseUint(before.list, 10, 64)
	if present, err := strconv.ParseUint(now.GetResourceVersion(), 10, 64); err != nil || present <= old {
		t.Errorf("resourceVersion %s after the recovery, %s before: %v", now.GetResourceVersion(), before.list, err)
	}
	w, err := a.dynamic.Resource(vms).Namespace(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: before.list})
	if err == nil {
		defer w.Stop()
		err = firstError(w)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch of before goes on: %v", err)
	}
	object, err := a.dynamic.Resource(vms).Namespace(ns).Get(t.Context(), "moved", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	object.SetResourceVersion(before.machine.ResourceVersion)
	if _, err := a.dynamic.Resource(vms).Namespace(ns).Update(t.Context(), object, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update on a resourceVersion of before: %v", err)
	}
}

// firstError returns the error that a watch begins with.
func firstError(w watch.Interface) error {
	select {
	case event := <-w.ResultChan():
		if event.Type != watch.Error {
			return fmt.Errorf("its first event is %s", event.Type)
		}
		return apierrors.FromObject(event.Object)
	case <-time.After(30 * time.Second):
		return errors.New("it has no event")
	}
}

// waitNamed waits until the status names some hosts, and not others, as those that may
// still run machines.
func waitNamed(t *testing.T, host string, named, unnamed []string) {
	t.Helper()
	eventually(t, 3*time.Minute, fmt.Sprintf("the status to name %v", named), func(ctx context.Context) error {
		_, warnings, err := statusOf(t, ctx, host)
		if err != nil {
			return err
		}
		var line string
		for _, warning := range strings.Split(warnings, "\n") {
			if strings.Contains(warning, "may still run machines") {
				line, _, _ = strings.Cut(warning, " may still run")
			}
		}
		for _, name := range named {
			if !strings.Contains(line, name) {
				return fmt.Errorf("%s is not named: %q", name, warnings)
			}
		}
		for _, name := range unnamed {
			if strings.Contains(line, name) {
				return fmt.Errorf("%s is named: %q", name, line)
			}
		}
		return nil
	})
}
