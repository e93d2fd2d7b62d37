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
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const claim = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %[2]s}
provisioner: kubevirt.io.hostpath-provisioner
parameters: {storagePool: %[2]s}
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: %[1]s}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: %[2]s
  resources: {requests: {storage: 64Mi}}
`

// What a guest writes to a claim is there for the next guest that uses it; a
// claim on a host's own directory keeps its guests on that host.
func TestVolumeClaimKeepsData(t *testing.T) {
	t.Parallel()
	for _, pool := range []string{"local", "shared"} {
		t.Run(pool, func(t *testing.T) {
			ns := namespace(t, "host1")
			a := connect(t, "host1")
			apply(t, "host1", fmt.Sprintf(claim, ns, pool))
			apply(t, "host1", machine(ns, "keeper", withClaim))
			first := waitRunning(t, a, ns, "keeper", 2*time.Minute)
			guest := openConsole(t, "host2", ns, "keeper")
			guest.run(t, "echo kept-by-"+pool+" | dd of=/dev/vdb bs=512 conv=sync && sync", 2*time.Minute)
			if _, err := virtmesh(t, "host2", "", "vm", "restart", "keeper", "-n", ns); err != nil {
				t.Fatal(err)
			}
			var second *kubevirtv1.VirtualMachineInstance
			eventually(t, 2*time.Minute, "a new instance", func(ctx context.Context) error {
				var err error
				if second, err = a.instance(ctx, ns, "keeper"); err != nil {
					return err
				}
				if second.UID == first.UID || second.Status.Phase != kubevirtv1.Running {
					return fmt.Errorf("uid %s phase %s", second.UID, second.Status.Phase)
				}
				return nil
			})
			if pool == "local" && second.Status.NodeName != first.Status.NodeName {
				t.Errorf("the data is on %s, the guest went to %s", first.Status.NodeName, second.Status.NodeName)
			}
			guest = openConsole(t, "host2", ns, "keeper")
			if answer := guest.run(t, "head -c 32 /dev/vdb", 2*time.Minute); !strings.Contains(answer, "kept-by-"+pool) {
				t.Errorf("the claim holds %q", answer)
			}
			bound, err := a.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
			if err != nil || bound.Status.Phase != corev1.ClaimBound {
				t.Errorf("the claim is %s, %v", bound.Status.Phase, err)
			}
		})
	}
}

func withClaim(vm *kubevirtv1.VirtualMachine) {
	spec := &vm.Spec.Template.Spec
	spec.Domain.Devices.Disks = append(spec.Domain.Devices.Disks, kubevirtv1.Disk{Name: "data",
		DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: kubevirtv1.DiskBusVirtio}}})
	source := &kubevirtv1.PersistentVolumeClaimVolumeSource{}
	source.ClaimName = "data"
	spec.Volumes = append(spec.Volumes, kubevirtv1.Volume{Name: "data",
		VolumeSource: kubevirtv1.VolumeSource{PersistentVolumeClaim: source}})
}
