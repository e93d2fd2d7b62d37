//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// One guest's whole life, with its console reached through another host and
// its agent killed underneath it.
func TestGuestLivesThroughItsAgentsDeath(t *testing.T) {
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	apply(t, "host1", machine(ns, "life"))
	vmi := waitRunning(t, a, ns, "life", 2*time.Minute)
	other := "host2"
	if vmi.Status.NodeName == other {
		other = "host1"
	}
	guest := openConsole(t, other, ns, "life")
	before := uptime(t, guest)

	killAgent(t, vmi.Status.NodeName)
	eventually(t, time.Minute, "the agent to be back", func(ctx context.Context) error {
		_, err := connect(t, vmi.Status.NodeName).instance(ctx, ns, "life")
		return err
	})
	again := openConsole(t, other, ns, "life")
	if after := uptime(t, again); after <= before {
		t.Errorf("the guest's uptime went from %.1f s to %.1f s when its agent was killed", before, after)
	}
	now, err := a.instance(t.Context(), ns, "life")
	if err != nil || now.UID != vmi.UID || now.Status.Phase != kubevirtv1.Running {
		t.Errorf("after the agent's restart the instance is %v %v, %v", now.UID, now.Status.Phase, err)
	}
}

func uptime(t *testing.T, guest *console) float64 {
	t.Helper()
	answer := guest.run(t, "cut -d' ' -f1 /proc/uptime", 90*time.Second)
	fields := strings.Fields(answer)
	if len(fields) == 0 {
		t.Fatalf("the guest said %q", answer)
	}
	seconds, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		t.Fatalf("the guest said %q: %v", answer, err)
	}
	return seconds
}

func killAgent(t *testing.T, host string) {
	t.Helper()
	inside(t, host, "pkill", "-KILL", "-f", "virtmesh agent run")
}

func TestThirtyGuestsSpreadOverTheHosts(t *testing.T) {
	const guests = 30
	ns := namespace(t, "host1")
	var manifests strings.Builder
	for i := range guests {
		fmt.Fprintf(&manifests, "%s---\n", machine(ns, fmt.Sprintf("many-%02d", i)))
	}
	apply(t, "host1", manifests.String())
	a := connect(t, "host3")
	perHost := map[string]int{}
	eventually(t, 6*time.Minute, "30 running guests", func(ctx context.Context) error {
		list, err := a.dynamic.Resource(vmis).Namespace(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		clear(perHost)
		phases := map[string]int{}
		for _, item := range list.Items {
			status, _ := item.Object["status"].(map[string]any)
			phase, _ := status["phase"].(string)
			host, _ := status["nodeName"].(string)
			phases[phase]++
			if phase == string(kubevirtv1.Running) {
				perHost[host]++
			}
		}
		if phases[string(kubevirtv1.Running)] < guests {
			return fmt.Errorf("phases %v", phases)
		}
		return nil
	})
	t.Logf("guests per host: %v", perHost)
	for host, n := range perHost {
		if n < 5 || n > 15 {
			t.Errorf("%s runs %d of %d guests; they are not spread", host, n, guests)
		}
	}
	checkAllocatable(t, a)
}

// checkAllocatable adds up what runs on each host.
func checkAllocatable(t *testing.T, a api) {
	t.Helper()
	nodes, err := a.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := a.dynamic.Resource(vmis).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]int64{}
	for _, item := range list.Items {
		vmi, err := a.instance(t.Context(), item.GetNamespace(), item.GetName())
		if err != nil {
			t.Fatal(err)
		}
		used[vmi.Status.NodeName] += vmi.Spec.Domain.Memory.Guest.Value()
	}
	for _, node := range nodes.Items {
		if allocatable := node.Status.Allocatable.Memory().Value(); used[node.Name] > allocatable {
			t.Errorf("%s: guests take %d of %d allocatable bytes", node.Name, used[node.Name], allocatable)
		}
	}
}

func TestStopStartPauseRestart(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "host2")
	a := connect(t, "host2")
	command := func(args ...string) {
		t.Helper()
		if _, err := virtmesh(t, "host3", "", append(args, "-n", ns)...); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, "host2", machine(ns, "acts"))
	first := waitRunning(t, a, ns, "acts", 2*time.Minute)

	command("vm", "pause", "acts")
	waitStatus(t, a, ns, "acts", kubevirtv1.VirtualMachineStatusPaused)
	command("vm", "unpause", "acts")
	waitStatus(t, a, ns, "acts", kubevirtv1.VirtualMachineStatusRunning)

	command("vm", "restart", "acts")
	eventually(t, 2*time.Minute, "a new instance", func(ctx context.Context) error {
		vmi, err := a.instance(ctx, ns, "acts")
		if err != nil {
			return err
		}
		if vmi.UID == first.UID || vmi.Status.Phase != kubevirtv1.Running {
			return fmt.Errorf("uid %s phase %s", vmi.UID, vmi.Status.Phase)
		}
		return nil
	})
	command("vm", "stop", "acts")
	waitStatus(t, a, ns, "acts", kubevirtv1.VirtualMachineStatusStopped)
	if _, err := a.instance(t.Context(), ns, "acts"); !apierrors.IsNotFound(err) {
		t.Errorf("a stopped machine has an instance: %v", err)
	}
	command("vm", "start", "acts")
	waitStatus(t, a, ns, "acts", kubevirtv1.VirtualMachineStatusRunning)
}

func waitStatus(t *testing.T, a api, ns, name string, want kubevirtv1.VirtualMachinePrintableStatus) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("%s to be %s", name, want), func(ctx context.Context) error {
		vm, err := a.machine(ctx, ns, name)
		if err != nil {
			return err
		}
		if vm.Status.PrintableStatus != want {
			return fmt.Errorf("it is %s", vm.Status.PrintableStatus)
		}
		return nil
	})
}

func TestBadManifestsAreRefused(t *testing.T) {
	ns := namespace(t, "host1")
	for name, bad := range map[string]struct{ manifest, says string }{
		"malformed":     {"kind: [", "yaml"},
		"unknown field": {strings.Replace(machine(ns, "bad"), "runStrategy: Always", "runStrategy: Always\n  colour: blue", 1), "colour"},
		"both ways":     {strings.Replace(machine(ns, "bad"), "runStrategy: Always", "runStrategy: Always\n  running: true", 1), "runStrategy"},
		"no volume":     {strings.Replace(machine(ns, "bad"), "name: root, containerDisk", "name: other, containerDisk", 1), "root"},
	} {
		_, err := virtmesh(t, "host1", bad.manifest, "apply", "-f", "-")
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(bad.says)) {
			t.Errorf("%s: got %v, want an error that names %q", name, err, bad.says)
		}
	}
	a := connect(t, "host1")
	if _, err := a.machine(t.Context(), ns, "bad"); !apierrors.IsNotFound(err) {
		t.Errorf("a refused machine exists: %v", err)
	}
}
