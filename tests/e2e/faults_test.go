//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// What can go wrong with an instance ends in a condition that names the cause.
func TestFaultsAreNamed(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	registry, _, _ := strings.Cut(tiny, "/")
	faults := map[string]struct {
		change func(*kubevirtv1.VirtualMachine)
		says   string
	}{
		"too-large": {func(vm *kubevirtv1.VirtualMachine) {
			memory := vm.Spec.Template.Spec.Domain.Memory.Guest
			memory.Set(1 << 50)
		}, "Insufficient memory"},
		"no-image":    {image(registry + "/nothing:here"), "not found"},
		"no-registry": {image(net.JoinHostPort(machineAddress(t).String(), "1") + "/tiny:latest"), "connection refused"},
		// A host does not connect to itself, or to another, because a user says so.
		"registry-here":  {image("localhost:6443/tiny:latest"), "images are not fetched from"},
		"registry-there": {image(hostAddress(t, "host2") + "/tiny:latest"), "images are not fetched from"},
		"no-disk":        {image(pushWithoutDisk(t, registry)), "not a containerDisk"},
		"mute-registry":  {image(muteRegistry(t) + "/tiny:latest"), "registry stalled"},
		"no-host": {func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.Spec.NodeSelector = map[string]string{"colour": "blue"}
		}, "selector"},
	}
	for name, fault := range faults {
		apply(t, "host1", machine(ns, name, fault.change))
	}
	for name, fault := range faults {
		waitFault(t, a, ns, name, fault.says)
	}
}

// A disk that fills up while an image is pulled is told, leaves nothing behind,
// and is no trouble any more once there is room.
func TestDiskFullWhilePulling(t *testing.T) {
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	reference := pushRandomDisk(t, 32<<20)
	tmp := "/var/lib/virtmesh/images/tmp"
	inside(t, "host2", "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp)
	// Lazily: the next attempt may have a file open there already.
	giveRoom := sync.OnceValue(func() error {
		_, err := lab(context.Background(), "exec", "host2", "--", "umount", "--lazy", tmp)
		return err
	})
	t.Cleanup(func() {
		if err := giveRoom(); err != nil {
			t.Error(err)
		}
	})
	apply(t, "host1", machine(ns, "full", image(reference), func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "host2"}
	}))
	waitFault(t, a, ns, "full", "no space")
	// The next attempt comes seconds later, and ends alike.
	eventually(t, time.Minute, "nothing to be left behind", func(ctx context.Context) error {
		// find fails where a directory goes while it looks.
		left, err := lab(ctx, "exec", "host2", "--", "find", tmp, "-type", "f")
		if err == nil && left != "" {
			err = fmt.Errorf("there is %s", left)
		}
		return err
	})
	if err := giveRoom(); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, a, ns, "full", kubevirtv1.VirtualMachineStatusRunning)
}

// image changes the image of a machine.
func image(reference string) func(*kubevirtv1.VirtualMachine) {
	return func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.Template.Spec.Volumes[0].ContainerDisk.Image = reference
	}
}

// waitFault waits until a condition of an instance says what is wrong.
func waitFault(t *testing.T, a api, ns, name, says string) {
	t.Helper()
	eventually(t, 2*time.Minute, name+" to say "+says, func(ctx context.Context) error {
		vmi, err := a.instance(ctx, ns, name)
		if err != nil {
			return err
		}
		for _, condition := range vmi.Status.Conditions {
			if condition.Status == corev1.ConditionFalse && strings.Contains(condition.Message, says) {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", vmi.Status.Conditions)
	})
}

// pushWithoutDisk pushes a container image that holds no disk.
func pushWithoutDisk(t *testing.T, registry string) string {
	t.Helper()
	content, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(registry+"/without-disk:latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, content, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return reference.Name()
}

// pushRandomDisk puts a disk into the registry that no compression makes smaller.
func pushRandomDisk(t *testing.T, size int) string {
	t.Helper()
	disk := make([]byte, size)
	rand.Read(disk)
	path := filepath.Join(t.TempDir(), "noise.img")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(mustLab(t, "image", path))
}

// muteRegistry takes connections and never says anything.
func muteRegistry(t *testing.T) string {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: machineAddress(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// hostAddress is where a host's API is, host:port.
func hostAddress(t *testing.T, host string) string {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(host))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(config.Host, "https://")
}

// machineAddress is this machine's own address on the lab's network.
func machineAddress(t *testing.T) net.IP {
	t.Helper()
	probe, err := net.Dial("udp", hostAddress(t, "host1"))
	if err != nil {
		t.Fatal(err)
	}
	probe.Close()
	return probe.LocalAddr().(*net.UDPAddr).IP
}
