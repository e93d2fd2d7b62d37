//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// blockGossip makes a packet filter on a host drop gossip, and gossip alone, until the
// returned function is called.
func blockGossip(t *testing.T, host string) (unblock func()) {
	t.Helper()
	const table = "gossip_blocked"
	rules := "table inet " + table + " { chain in { type filter hook input priority -10; meta l4proto { tcp, udp } th dport 7946 drop; }; " +
		"chain out { type filter hook output priority -10; meta l4proto { tcp, udp } th dport 7946 drop; }; }"
	inside(t, host, "nft", rules)
	unblock = func() { inside(t, host, "nft", "delete table inet "+table) }
	return unblock
}

// statusOf returns the mesh's status, which a mesh with warnings shows too.
func statusOf(t *testing.T, ctx context.Context, host string) (members map[string]string, warnings string, err error) {
	t.Helper()
	out, _ := program(ctx, nil, "--kubeconfig", kubeconfig(host), "status", "-o", "json")
	var status struct {
		Members  []struct{ Name, State string }
		Warnings []string
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return nil, "", fmt.Errorf("status of %s: %w: %s", host, err, out)
	}
	members = map[string]string{}
	for _, m := range status.Members {
		members[m.Name] = m.State
	}
	return members, strings.Join(status.Warnings, "\n"), nil
}

// A packet filter blocks gossip between one host and the others, while Raft is well. The
// host works on, nobody declares it dead for good, and gossip comes together by itself.
func TestBlockedGossipIsNoDeath(t *testing.T) {
	waitWhole(t)
	const cut = "host3"
	unblock := blockGossip(t, cut)
	blocked := true
	defer func() {
		if blocked {
			unblock()
		}
		waitWhole(t)
	}()
	eventually(t, time.Minute, "the status to name the blocked port", func(ctx context.Context) error {
		members, warnings, err := statusOf(t, ctx, "host1")
		if err != nil {
			return err
		}
		if members[cut] != "dead" || !strings.Contains(warnings, cut+" answers the leader, and does not gossip") {
			return fmt.Errorf("%v, warnings %q", members, warnings)
		}
		return nil
	})
	if _, err := virtmesh(t, "host1", "", "node", "remove", cut); err == nil || !strings.Contains(err.Error(), "its agent may run") {
		t.Errorf("a host that runs can be removed: %v", err)
	}
	// The watcher of dead hosts has had its time by now.
	a := connect(t, "host1")
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		node, err := a.CoreV1().Nodes().Get(t.Context(), cut, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				t.Fatalf("a host that runs is marked: %s %s", c.Status, c.Message)
			}
		}
	}
	ns := namespace(t, "host1")
	if _, ok := createHalted(t, connect(t, cut), ns, "meanwhile"); !ok {
		t.Errorf("%s cannot create a machine", cut)
	}
	unblock()
	blocked = false
	eventually(t, 3*time.Minute, "gossip to come together", func(ctx context.Context) error {
		var errs []error
		for _, host := range []string{"host1", "host2", cut} {
			members, _, err := statusOf(t, ctx, host)
			if err != nil || members["host1"] != "alive" || members["host2"] != "alive" || members[cut] != "alive" {
				errs = append(errs, fmt.Errorf("%s sees %v (%v)", host, members, err))
			}
		}
		return errors.Join(errs...)
	})
}
