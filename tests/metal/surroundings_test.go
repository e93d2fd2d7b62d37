//go:build metal

package metal

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// writes changes the mesh through a host and takes it back.
func writes(t *testing.T, host string) {
	t.Helper()
	const manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written, namespace: default}\n"
	if _, err := virtmesh(t.Context(), host, manifest, "apply", "-f", "-"); err != nil {
		t.Errorf("a write through %s: %v", host, err)
	}
	if _, err := virtmesh(t.Context(), host, "", "delete", "configmap", "written"); err != nil {
		t.Errorf("a second write through %s: %v", host, err)
	}
}

// A host whose clock is set an hour ahead, and back, stays in the mesh, and its guest runs on.
func TestClockThatIsSet(t *testing.T) {
	long(t)
	inside(t, "host2", "systemctl stop systemd-timesyncd")
	undo(t, "host2", "systemctl start systemd-timesyncd")
	startGuest(t, "host2", "timeless")
	guest, agent := qemuOf(t, "host2", "timeless"), inside(t, "host2", "systemctl show -P MainPID virtmesh")
	for _, change := range []string{"+1 hour", "-1 hour"} {
		inside(t, "host2", "date -s '"+change+"'")
		// Longer than any heartbeat, lease and suspicion lasts.
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			if now := qemuOf(t, "host2", "timeless"); now != guest {
				t.Fatalf("after %s the guest's process is %s, it was %s", change, now, guest)
			}
			writes(t, "host1")
			writes(t, "host2")
		}
		waitReady(t, "host1", "host2")
	}
	if now := inside(t, "host2", "systemctl show -P MainPID virtmesh"); now != agent {
		t.Errorf("the agent's process is %s, it was %s", now, agent)
	}
}

// configure runs a script that changes agent.yaml, $config, restarts the agent, and undoes
// both at the end of the test.
func configure(t *testing.T, host, script string) {
	t.Helper()
	const restart = " && systemctl restart virtmesh"
	inside(t, host, "cp -a /etc/virtmesh/agent.yaml /root/agent.yaml.before; config=/etc/virtmesh/agent.yaml; "+script+restart)
	undo(t, host, "mv /root/agent.yaml.before /etc/virtmesh/agent.yaml"+restart)
}

// pools waits until the condition of a host's pools is as given.
func pools(t *testing.T, host, want string, timeout time.Duration) {
	t.Helper()
	eventually(t, timeout, "PoolsUsable is "+want, func(ctx context.Context) error {
		out, err := virtmesh(ctx, host, "", "get", "node", host, "-o", "json")
		if err == nil && !strings.Contains(strings.Join(strings.Fields(out), ""), `"status":"`+want+`","type":"PoolsUsable"`) {
			err = fmt.Errorf("its conditions are %s", out)
		}
		return err
	})
}

// A pool whose NFS server is gone takes neither the agent down, nor its restart, nor a
// guest of another pool; and it is back when the server is.
func TestPoolWhoseServerIsGone(t *testing.T) {
	long(t)
	inside(t, "host2", `mkdir -p /srv/nfs && echo '/srv/nfs *(rw,no_root_squash,no_subtree_check,fsid=1)' >/etc/exports && systemctl start nfs-server`)
	address := inside(t, "host2", "hostname -I | cut -d ' ' -f 1")
	inside(t, "host1", "mkdir -p /mnt/nfs && mount -t nfs -o vers=4.2,hard "+address+":/srv/nfs /mnt/nfs && mkdir -p /mnt/nfs/pool")
	undo(t, "host1", "umount -f -l /mnt/nfs")
	configure(t, "host1", `sed -i 's|^pools:|&\n- {name: nfs, path: /mnt/nfs/pool}|' $config && grep -q mnt/nfs $config`)
	pools(t, "host1", "True", 3*time.Minute)
	startGuest(t, "host1", "local")
	guest := qemuOf(t, "host1", "local")

	inside(t, "host2", "systemctl stop nfs-server")
	pools(t, "host1", "False", 3*time.Minute)
	const status = "virtmesh status || test $? = 3" // it warns of the pool
	for _, act := range []string{
		status, "systemctl stop virtmesh", "systemctl start virtmesh", status, "virtmesh doctor || true",
	} {
		began := time.Now()
		inside(t, "host1", act)
		took := time.Since(began).Round(time.Second)
		t.Logf("%s took %s", act, took)
		if took > time.Minute {
			t.Errorf("%s took %s while a pool's server is gone", act, took)
		}
	}
	told := inside(t, "host1", "journalctl -b -q -o cat -u virtmesh _PID=1 --since -5min")
	if !strings.Contains(told, "Stopped virtmesh.service") || regexp.MustCompile("SIGKILL|timed out").MatchString(told) {
		t.Errorf("systemd had to kill the agent, gave up waiting, or did not stop it:\n%s", told)
	}
	pools(t, "host1", "False", 3*time.Minute)
	if now := qemuOf(t, "host1", "local"); now != guest {
		t.Errorf("the guest's process is %s, it was %s", now, guest)
	}
	writes(t, "host1")

	inside(t, "host2", "systemctl start nfs-server")
	pools(t, "host1", "True", 5*time.Minute)
}

// With firewalld and the commands of docs/install.md, hosts reach each other and a guest
// gets its address.
func TestFirewalld(t *testing.T) {
	long(t)
	inside(t, "host1", "systemctl start firewalld")
	undo(t, "host1", "systemctl stop firewalld")
	// An emulated host may take longer to answer doctor's question than doctor waits.
	eventually(t, 4*time.Minute, "doctor mentions firewalld", func(ctx context.Context) error {
		out, err := try(ctx, "host1", "virtmesh doctor || true")
		if err == nil && !strings.Contains(out, "firewalld") {
			err = fmt.Errorf("it says:\n%s", out)
		}
		return err
	})
	inside(t, "host1", `set -e
		firewall-cmd --permanent --add-service=virtmesh
		firewall-cmd --permanent --zone=trusted --add-interface=virtmesh0
		firewall-cmd --reload`)
	waitReady(t, "host1", "host1")
	waitReady(t, "host2", "host1")
	writes(t, "host2")
	startGuest(t, "host1", "behind")
	eventually(t, guestTimeout, "the guest has an address and answers", func(ctx context.Context) error { return answers(ctx, "host1", "behind") })
}

// A guest in a VLAN of a bridge sends frames with the tag of that VLAN to the network, and
// no others.
func TestGuestInAVLAN(t *testing.T) {
	long(t)
	const definition = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: tagged, namespace: default}
spec:
  config: '{"cniVersion": "0.3.1", "type": "bridge", "bridge": "br1", "vlan": 42}'
`
	if _, err := virtmesh(t.Context(), "host1", definition, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	// Where host2's card counts what arrives with a tag.
	for _, vlan := range []string{"42", "43"} {
		inside(t, "host2", "ip link add link eth1 name tag"+vlan+" type vlan id "+vlan+" && ip link set tag"+vlan+" up")
		undo(t, "host2", "ip link delete tag"+vlan)
	}
	startGuest(t, "host1", "tagged", onNetwork("tagged"))
	if ports := inside(t, "host1", "bridge vlan show"); !strings.Contains(ports, "42 PVID Egress Untagged") {
		t.Errorf("no port of host1's bridges is in VLAN 42:\n%s", ports)
	}
	const received = "cat /sys/class/net/tag%s/statistics/rx_packets"
	eventually(t, guestTimeout, "frames of VLAN 42 arrive at host2", func(ctx context.Context) error {
		n, err := try(ctx, "host2", fmt.Sprintf(received, "42"))
		if err == nil && n == "0" {
			err = errors.New("none has arrived")
		}
		return err
	})
	if n := inside(t, "host2", fmt.Sprintf(received, "43")); n != "0" {
		t.Errorf("%s frames of VLAN 43 arrived", n)
	}
}
