//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// libvirtd hangs, and the agent starts all the same: the host answers, is a part of the mesh
// and says on its Node what it lacks. Once libvirtd answers, the host takes guests.
func TestAnAgentStartsWithoutItsHypervisor(t *testing.T) {
	waitWhole(t)
	a := connect(t, "host1")
	const agent = "virtmesh agent run"
	// pgrep -x compares the name of the process, which libvirtd's helpers do not have.
	inside(t, "host3", "pkill", "-STOP", "-x", "libvirtd")
	resume := func() {
		if _, err := lab(context.Background(), "exec", "host3", "--", "pkill", "-CONT", "-x", "libvirtd"); err != nil {
			t.Error(err)
		}
	}
	defer func() {
		resume()
		waitWhole(t)
	}()
	before := strings.TrimSpace(inside(t, "host3", "pgrep", "-f", "-o", "["+agent[:1]+"]"+agent[1:]))
	inside(t, "host3", "kill", "-9", before)
	waitCondition(t, a, "host3", "HypervisorReady", corev1.ConditionFalse)
	waitCondition(t, a, "host3", corev1.NodeReady, corev1.ConditionFalse)
	ns := namespace(t, "host1")
	if _, ok := createHalted(t, connect(t, "host3"), ns, "by-host3"); !ok {
		t.Error("a host whose libvirtd hangs does not serve its API")
	}
	// It warns, so it exits with a status of its own.
	if out, err := lab(t.Context(), "exec", "host1", "--", "virtmesh", "status"); err == nil || !strings.Contains(out, "host3: The hypervisor does not answer") {
		t.Errorf("status does not warn (%v):\n%s", err, out)
	}
	resume()
	waitCondition(t, a, "host3", "HypervisorReady", corev1.ConditionTrue)
	waitCondition(t, a, "host3", corev1.NodeReady, corev1.ConditionTrue)
}

// waitCondition waits until the Node of a host has the condition.
func waitCondition(t *testing.T, a api, host string, kind corev1.NodeConditionType, want corev1.ConditionStatus) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("condition %s of %s to be %s", kind, host, want), func(ctx context.Context) error {
		node, err := a.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == kind && c.Status == want {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", node.Status.Conditions)
	})
}
