//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const hosts = 3

var (
	// binary is the program under test.
	binary string
	// labDir is the lab of this run. UNIX sockets live below it, so it is short.
	labDir string
	// tiny is the reference of the small guest image.
	tiny string
)

func TestMain(m *testing.M) {
	os.Exit(runInLab(m))
}

func runInLab(m *testing.M) int {
	var err error
	if binary, err = filepath.Abs("../../bin/virtmesh"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if labDir, err = os.MkdirTemp("/var/lib", "vm-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Chmod(labDir, 0o755)
	defer os.RemoveAll(labDir)
	defer lab(context.Background(), "down")
	started := time.Now()
	if out, err := lab(context.Background(), "up", "--hosts", fmt.Sprint(hosts)); err != nil {
		fmt.Fprintf(os.Stderr, "start the lab: %v\n%s\n", err, out)
		printLogs()
		return 1
	}
	fmt.Printf("lab of %d hosts was Ready in %s\n", hosts, time.Since(started).Round(time.Second))
	out, err := lab(context.Background(), "image", "tiny")
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the tiny image: %v\n%s\n", err, out)
		return 1
	}
	tiny = strings.TrimSpace(out)
	code := m.Run()
	if code != 0 {
		printLogs()
	}
	return code
}

// printLogs shows the end of each agent's log, so that a failure in CI can be
// understood from its output.
func printLogs() {
	logs, _ := filepath.Glob(filepath.Join(labDir, "hosts", "*", "log", "*.log"))
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		const tail = 6000
		if len(data) > tail {
			data = data[len(data)-tail:]
		}
		fmt.Printf("=== %s\n%s\n", path, data)
	}
}

// lab runs a lab command and returns its standard output.
func lab(ctx context.Context, args ...string) (string, error) {
	return program(ctx, nil, append([]string{"lab", "--dir", labDir}, args...)...)
}

func program(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("virtmesh %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// mustLab is lab for commands that must work.
func mustLab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := lab(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inside runs a command in a lab host.
func inside(t *testing.T, host string, argv ...string) string {
	t.Helper()
	return mustLab(t, append([]string{"exec", host, "--"}, argv...)...)
}

// kubeconfig of a host of the lab.
func kubeconfig(host string) string { return filepath.Join(labDir, "hosts", host, "kubeconfig") }

// virtmesh runs a user's command against a host.
func virtmesh(t *testing.T, host string, stdin string, args ...string) (string, error) {
	t.Helper()
	return program(t.Context(), strings.NewReader(stdin), append([]string{"--kubeconfig", kubeconfig(host)}, args...)...)
}

// api is the way to one host's API.
type api struct {
	*kubernetes.Clientset
	dynamic dynamic.Interface
	config  *rest.Config
}

func connect(t *testing.T, host string) api {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(host))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 500, 1000
	config.Timeout = 30 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return api{Clientset: client, dynamic: dyn, config: config}
}

var (
	vms  = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachines")
	vmis = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachineinstances")
)

// instance reads a VirtualMachineInstance.
func (a api) instance(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	object, err := a.dynamic.Resource(vmis).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	vmi := &kubevirtv1.VirtualMachineInstance{}
	return vmi, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, vmi)
}

func (a api) machine(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachine, error) {
	object, err := a.dynamic.Resource(vms).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	vm := &kubevirtv1.VirtualMachine{}
	return vm, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, vm)
}

// eventually polls until try succeeds, and fails the test with its last error.
func eventually(t *testing.T, timeout time.Duration, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	last := errors.New("not tried")
	for ctx.Err() == nil {
		if err := try(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	t.Fatalf("%s did not happen within %s: %v", what, timeout, last)
}

// namespace makes a namespace for a test and removes it with all it holds.
func namespace(t *testing.T, host string) string {
	t.Helper()
	name := "e2e-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	if len(name) > 50 {
		name = name[:50]
	}
	if _, err := virtmesh(t, host, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+name+"\n", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if _, err := program(ctx, nil, "--kubeconfig", kubeconfig(host), "delete", "namespace", name); err != nil {
			t.Errorf("remove the test's namespace: %v", err)
		}
	})
	return name
}

// machine is a small virtual machine that boots the tiny image.
func machine(namespace, name string, change ...func(*kubevirtv1.VirtualMachine)) string {
	manifest := fmt.Sprintf(`
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: %s, namespace: %s}
spec:
  runStrategy: Always
  template:
    metadata: {labels: {kubevirt.io/vm: %s}}
    spec:
      terminationGracePeriodSeconds: 10
      domain:
        memory: {guest: 96Mi}
        devices:
          disks: [{name: root, disk: {bus: virtio}}]
          interfaces: [{name: default, masquerade: {}}]
      networks: [{name: default, pod: {}}]
      volumes: [{name: root, containerDisk: {image: "%s"}}]
`, name, namespace, name, tiny)
	if len(change) == 0 {
		return manifest
	}
	vm := &kubevirtv1.VirtualMachine{}
	if err := yaml.UnmarshalStrict([]byte(manifest), vm); err != nil {
		panic(err)
	}
	for _, f := range change {
		f(vm)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(vm)
	if err != nil {
		panic(err)
	}
	delete(content, "status")
	data, err := yaml.Marshal(content)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func apply(t *testing.T, host, manifest string) {
	t.Helper()
	if _, err := virtmesh(t, host, manifest, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// waitRunning waits until the instance's guest runs and returns it.
func waitRunning(t *testing.T, a api, namespace, name string, timeout time.Duration) *kubevirtv1.VirtualMachineInstance {
	t.Helper()
	var vmi *kubevirtv1.VirtualMachineInstance
	eventually(t, timeout, namespace+"/"+name+" Running", func(ctx context.Context) error {
		var err error
		if vmi, err = a.instance(ctx, namespace, name); err != nil {
			return err
		}
		if vmi.Status.Phase != kubevirtv1.Running {
			return fmt.Errorf("phase %s, conditions %+v", vmi.Status.Phase, vmi.Status.Conditions)
		}
		return nil
	})
	return vmi
}
