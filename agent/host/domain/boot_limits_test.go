//go:build libvirt_dlopen

package domain

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/host/hypervisor/privatelibvirtd"
	machine "virtmesh/agent/vmi"
)

// TestLimitsTakeEffect looks at what the kernel was told where libvirt may use cgroups, and
// has the guest start all the same where it may not.
func TestLimitsTakeEffect(t *testing.T) {
	for name, cgroups := range map[string]bool{"with cgroups": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			h := newBootHost(t, func(c *privatelibvirtd.Config) { c.Cgroups = cgroups })
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			in := Input{VMI: load(t, "typical"), Host: "host1", Epoch: 1, CPUMilli: 250}
			in.VMI.Spec.Domain.Devices.Interfaces, in.VMI.Spec.Networks = nil, nil
			in.VMI.Spec.Domain.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
			console := h.start(t, ctx, in)
			defer console.Close()
			awaitText(t, console, hypervisortest.Ready)
			if told := strings.Join(h.started.Warnings, "\n"); strings.Contains(told, "spec.domain.resources.limits.cpu") == cgroups {
				t.Errorf("what the start said of the limit: %q", told)
			}
			if !cgroups {
				return
			}
			seen := strings.Join(strings.Fields(h.virsh(t, "schedinfo", UUID(in.VMI))), " ")
			for _, want := range []string{"cpu_shares : 256", "global_period : 100000", "global_quota : 150000"} {
				if !strings.Contains(seen, want) {
					t.Errorf("%q is not in %q", want, seen)
				}
			}
			limit := fmt.Sprint("hard_limit : ", machine.MemoryLimit(&in.VMI.Spec, true)>>10)
			if seen := strings.Join(strings.Fields(h.virsh(t, "memtune", UUID(in.VMI))), " "); !strings.Contains(seen, limit) {
				t.Errorf("%q is not in %q", limit, seen)
			}
		})
	}
}
