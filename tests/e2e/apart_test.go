//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

// emulator is the process of a guest on a host, and whom it runs as.
type emulator struct{ pid, uid, gid string }

func emulatorOf(t *testing.T, host, ns, name string) emulator {
	t.Helper()
	e := emulator{pid: strings.TrimSpace(inside(t, host, "pgrep", "-f", "qemu-system-x86_64.*guest="+ns+"_"+name+","))}
	status := inside(t, host, "cat", "/proc/"+e.pid+"/status")
	for field, to := range map[string]*string{"Uid": &e.uid, "Gid": &e.gid} {
		// The real, effective, saved and file system's IDs.
		ids := regexp.MustCompile(`(?m)^` + field + `:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$`).FindStringSubmatch(status)
		if ids == nil || ids[1] != ids[2] || ids[1] != ids[3] || ids[1] != ids[4] {
			t.Fatalf("%s of %s is %q", field, name, ids)
		}
		*to = ids[1]
	}
	for field, want := range map[string]string{"CapEff": "0000000000000000", "Seccomp": "2", "NoNewPrivs": "1"} {
		if got := regexp.MustCompile(`(?m)^` + field + `:\s+(\S+)`).FindStringSubmatch(status); got == nil || got[1] != want {
			t.Errorf("%s of %s is %v, want %s", field, name, got, want)
		}
	}
	return e
}

// tryOthers lists what a process with the IDs of e may write, and what it may read although
// not everybody may, of the files and sockets below the directories that are not its own.
func (e emulator) tryOthers(t *testing.T, host string, dirs ...string) (writable, readable []string) {
	t.Helper()
	script := "find " + strings.Join(dirs, " ") + ` \( -type f -o -type s \) -not -uid ` + e.uid + ` -print0 |
		xargs -0 setpriv --reuid ` + e.uid + " --regid " + e.gid + ` --clear-groups --no-new-privs sh -c '
			for f; do
				if [ -w "$f" ]; then echo "w $f"
				elif [ -f "$f" ] && [ -r "$f" ] && [ -z "$(find "$f" -perm -o=r)" ]; then echo "r $f"
				fi
			done' sh`
	for line := range strings.Lines(inside(t, host, "sh", "-c", script)) {
		mode, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if mode == "w" {
			writable = append(writable, path)
		} else {
			readable = append(readable, path)
		}
	}
	return writable, readable
}

// others lists the files and sockets below the directories that are not those of e.
func (e emulator) others(t *testing.T, host string, dirs ...string) string {
	t.Helper()
	return inside(t, host, "sh", "-c", "find "+strings.Join(dirs, " ")+` \( -type f -o -type s \) -not -uid `+e.uid)
}

// own lists the files and sockets of e that it may write.
func (e emulator) own(t *testing.T, host string, dirs ...string) string {
	t.Helper()
	return inside(t, host, "sh", "-c", "find "+strings.Join(dirs, " ")+` \( -type f -o -type s \) -uid `+e.uid+` -print0 |
		xargs -0 setpriv --reuid `+e.uid+" --regid "+e.gid+` --clear-groups sh -c 'for f; do [ -w "$f" ] && echo "$f"; done; true' sh`)
}

// Each guest's emulator has a uid of its own, and with that uid nothing of another guest,
// of the host and of the mesh can be opened: no disk, no volume, no monitor, no console,
// no socket of an agent, no TPM and no part of the store. Images can be read, since guests
// start from them, and not be written. One of the guests has a volume that was converted
// from an image, in the sandbox of converters. It does not run beside others, which count the
// files that machines keep on a host.
func TestGuestsAreApart(t *testing.T) {
	const host = "host1"
	ns := namespace(t, host)
	a := connect(t, host)
	apply(t, host, fmt.Sprintf(importedClaim, ns, tiny))
	apply(t, host, machine(ns, "one", on(host, kubevirtv1.RunStrategyAlways)))
	apply(t, host, machine(ns, "other", on(host, kubevirtv1.RunStrategyAlways), withClaim, withKeptState))
	uids := map[string]string{}
	for _, name := range []string{"one", "other"} {
		vmi := waitRunning(t, a, ns, name, 3*time.Minute)
		e := emulatorOf(t, host, ns, name)
		if first := uids[e.uid]; first != "" || e.uid < "1900000000" {
			t.Fatalf("%s runs as uid %s, as %q does", name, e.uid, first)
		}
		uids[e.uid] = name
		if shown := fmt.Sprint(vmi.Status.RuntimeUser); shown != e.uid {
			t.Errorf("the status of %s shows uid %s, it runs as %s", name, shown, e.uid)
		}
	}
	// A lab has neither AppArmor nor SELinux, nor cgroups; the rest is there.
	node, err := a.CoreV1().Nodes().Get(t.Context(), host, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if confined := objects.NodeCondition(node, objects.NodeGuestsConfined); !strings.HasPrefix(confined.Message, "libvirt uses neither AppArmor nor SELinux; libvirt cannot limit the memory of emulators;") {
		t.Errorf("the Node says %+v", confined)
	}
	one, other := emulatorOf(t, host, ns, "one"), emulatorOf(t, host, ns, "other")

	dirs := []string{"/var/lib/virtmesh", "/var/lib/libvirt", "/run/libvirt", "/run/virtmesh", "/run/virtmesh-guests", "/etc/virtmesh", "/var/log/libvirt"}
	// What is tried is there, and its owner may write it.
	own := other.own(t, host, dirs...)
	for _, part := range []string{"/instances/", "/volumes/pvc-", "/machines/", "/master-key.aes", "-swtpm.sock"} {
		if !strings.Contains(own, part) {
			t.Errorf("%s is missing among the guest's own files:\n%s", part, own)
		}
	}
	tried := one.others(t, host, dirs...)
	for _, part := range []string{"/run/virtmesh/agent.sock", "/run/virtmesh-guests/", "/var/lib/virtmesh/raft/", "/sockets/agent", "/monitor.sock", "/run/libvirt/libvirt-sock", "/etc/virtmesh/agent.yaml", "/images/"} {
		if !strings.Contains(tried, part) {
			t.Errorf("%s is missing among what is tried:\n%s", part, tried)
		}
	}
	writable, readable := one.tryOthers(t, host, dirs...)
	if len(writable) > 0 {
		t.Errorf("a guest's emulator may write what is not its own: %v", writable)
	}
	for _, path := range readable {
		if !strings.HasPrefix(path, "/var/lib/virtmesh/images/") {
			t.Errorf("a guest's emulator may read %s", path)
		}
	}
	// The image arrived whole in the volume, and no converter has kept anything. The guest
	// has firmware that does not boot it, and so has not written.
	volume := regexp.MustCompile(`(?m)^.*/volumes/pvc-.*/disk.*$`).FindString(own)
	same := inside(t, host, "sh", "-c", `for i in /var/lib/virtmesh/images/images/*/disk; do
			qemu-img compare -q -U -f qcow2 -F raw "$i" "$1" && echo same
		done; true`, "sh", volume)
	if !strings.Contains(same, "same") {
		t.Errorf("no image of the host is that in %q", volume)
	}
	left := inside(t, host, "sh", "-c", "find "+strings.Join(dirs, " ")+" -uid +1899999999 -not -uid +1900004095")
	if left = strings.TrimSpace(left); left != "" {
		t.Errorf("converters have kept %s", left)
	}
}

// importedClaim is a claim whose volume is filled from a container disk. The image is qcow2 and
// volumes are raw, so the host converts it.
const importedClaim = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: kubevirt.io.hostpath-provisioner
parameters: {storagePool: local}
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: data
  namespace: %[1]s
  annotations:
    cdi.kubevirt.io/storage.import.source: registry
    cdi.kubevirt.io/storage.import.endpoint: docker://%[2]s
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: local
  resources: {requests: {storage: 1Gi}}
`
