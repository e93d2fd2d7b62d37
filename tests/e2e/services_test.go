//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// A guest asks for its address and for a name again and again, while the agent of its host
// hangs, is killed, stays away and is upgraded. It never asks in vain.
func TestGuestsDoNotNoticeTheAgent(t *testing.T) {
	const host = "host2"
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	apply(t, "host1", machine(ns, "asks", func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: host}
	}))
	waitRunning(t, a, ns, "asks", 2*time.Minute)
	guest := openConsole(t, host, ns, "asks")
	// What the guest says is read from the log of its console, which needs no agent.
	guest.run(t, `{ (while :; do if udhcpc -i eth0 -n -q -f -t 1 -T 3 -s /bin/true >/dev/null 2>&1 && nslookup asks.`+ns+` >/dev/null 2>&1; then echo "ns-""served"; else echo "ns-""lost"; fi; sleep 1; done >/dev/console) & }`, time.Minute)
	count := func(ctx context.Context, what string) int {
		out, _ := lab(ctx, "exec", host, "--", "sh", "-c", "cat $(find /var/lib/virtmesh/consoles -type f -path '*asks*') | grep -c ns-"+what)
		var n int
		_, _ = fmt.Sscan(out, &n) // grep fails if there is none
		return n
	}
	served := func(when string) {
		t.Helper()
		begin := count(t.Context(), "served")
		eventually(t, 2*time.Minute, "the guest to be served while "+when, func(ctx context.Context) error {
			if n := count(ctx, "served"); n < begin+4 {
				return fmt.Errorf("%d times, it was %d before", n, begin)
			}
			return nil
		})
		if n := count(t.Context(), "lost"); n > 0 {
			t.Fatalf("while %s the guest asked %d times in vain", when, n)
		}
	}
	process := func() string {
		t.Helper()
		return strings.TrimSpace(inside(t, host, "pgrep", "-f", "^virtmesh guest-services"))
	}
	served("all is well")
	pid := process()
	t.Logf("guest services: %s", strings.Join(strings.Fields(inside(t, host, "grep", "-E", "^(VmRSS|RssAnon|RssFile|CapEff)", "/proc/"+pid+"/status")), " "))

	inside(t, host, "pkill", "-STOP", "-f", "[v]irtmesh agent run")
	served("the agent hangs")
	inside(t, host, "pkill", "-CONT", "-f", "[v]irtmesh agent run")
	stopAgent(t, host)
	served("there is no agent")

	// As a package does: another file by the same name.
	next := filepath.Join(labDir, "next")
	inside(t, host, "cp", binary, next)
	inside(t, host, "mount", "--bind", next, binary)
	t.Cleanup(func() {
		if _, err := lab(context.Background(), "exec", host, "--", "umount", "--lazy", binary); err != nil {
			t.Error(err)
		}
	})
	program := inside(t, host, "stat", "-L", "-c", "%i", next)
	startAgent(t, host)
	eventually(t, time.Minute, "guest services to run the program of the new agent", func(ctx context.Context) error {
		if now, err := lab(ctx, "exec", host, "--", "stat", "-L", "-c", "%i", "/proc/"+pid+"/exe"); err != nil || now != program {
			return fmt.Errorf("the program is %q, %w", now, err)
		}
		return nil
	})
	served("the agent was upgraded")
	waitWhole(t)
	if now := process(); now != pid {
		t.Errorf("guest services are process %s, and were %s", now, pid)
	}
}
