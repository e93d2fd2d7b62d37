package cli

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func vmCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "create a virtual machine from a container disk, and start it", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			namespaceFlag(), outputFlag(),
			&cli.StringFlag{Name: "image", Usage: "container disk image to boot from (required)"},
			&cli.UintFlag{Name: "cpu", Value: 1, Usage: "virtual CPUs", Action: checkCPU},
			&cli.StringFlag{Name: "memory", Value: "256Mi", Usage: "guest memory"},
			&cli.StringFlag{Name: "run-strategy", Value: "Always", Usage: "Always, RerunOnFailure, Manual, Once or Halted"},
			&cli.StringFlag{Name: "cloud-init", Usage: "file with cloud-init user data"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print the manifest and create nothing"},
			&cli.DurationFlag{Name: "wait", Action: mustBePositive("wait"), Usage: "wait this long until it is Running"},
		},
		Action: vmCreate,
	}
}

func vmCreate(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name the new virtual machine")
	}
	if c.String("image") == "" {
		return errors.New("name the container disk to boot from with --image")
	}
	vm, err := newVM(c)
	if err != nil {
		return err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(vm)
	if err != nil {
		return fmt.Errorf("encode the virtual machine: %w", err)
	}
	delete(content, "status")
	if c.Bool("dry-run") {
		return printManifest(c, content)
	}
	conn, client, err := connectDynamic(c)
	if err != nil {
		return err
	}
	vms := client.Resource(vmResource).Namespace(conn.namespace)
	created, err := vms.Create(c.Context, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return err
	}
	printed, err := printValue(c, created)
	if err != nil {
		return err
	}
	if !printed {
		fmt.Fprintf(c.App.Writer, "vm/%s created\n", vm.Name)
	}
	if c.IsSet("wait") {
		return waitRunning(c, vms, vm.Name, conn.patience)
	}
	return nil
}

// printManifest prints what would be created, as YAML unless the user asks for JSON.
func printManifest(c *cli.Context, content map[string]any) error {
	if c.String("output") == "json" {
		_, err := printValue(c, content)
		return err
	}
	return printYAML(c.App.Writer, content)
}

// checkCPU refuses numbers of CPUs that no machine can have: the API would take another
// number for them.
func checkCPU(_ *cli.Context, n uint) error {
	if n == 0 || n > math.MaxInt16 {
		return fmt.Errorf("--cpu must be at least 1 and at most %d, and not %d", math.MaxInt16, n)
	}
	return nil
}

func newVM(c *cli.Context) (*kubevirtv1.VirtualMachine, error) {
	memory, err := resource.ParseQuantity(c.String("memory"))
	if err != nil {
		return nil, fmt.Errorf("--memory %q is not an amount of memory, such as 512Mi or 2Gi", c.String("memory"))
	}
	strategy := kubevirtv1.VirtualMachineRunStrategy(c.String("run-strategy"))
	name := c.Args().First()
	vm := &kubevirtv1.VirtualMachine{}
	vm.APIVersion, vm.Kind = kubevirtv1.SchemeGroupVersion.String(), "VirtualMachine"
	vm.Name, vm.Namespace = name, c.String("namespace")
	vm.Spec.RunStrategy = &strategy
	vm.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{}
	vm.Spec.Template.ObjectMeta.Labels = map[string]string{"kubevirt.io/vm": name}
	spec := &vm.Spec.Template.Spec
	spec.Domain.CPU = &kubevirtv1.CPU{Cores: uint32(c.Uint("cpu"))}
	spec.Domain.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: memory}
	spec.Domain.Devices.Disks = []kubevirtv1.Disk{virtioDisk("root")}
	spec.Volumes = []kubevirtv1.Volume{{Name: "root", VolumeSource: kubevirtv1.VolumeSource{
		ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: c.String("image")}}}}
	spec.Networks = []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()}
	spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{*kubevirtv1.DefaultMasqueradeNetworkInterface()}
	if file := c.String("cloud-init"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read cloud-init user data: %w", err)
		}
		spec.Domain.Devices.Disks = append(spec.Domain.Devices.Disks, virtioDisk("cloudinit"))
		spec.Volumes = append(spec.Volumes, kubevirtv1.Volume{Name: "cloudinit", VolumeSource: kubevirtv1.VolumeSource{
			CloudInitNoCloud: &kubevirtv1.CloudInitNoCloudSource{UserData: string(data)}}})
	}
	return vm, nil
}

func virtioDisk(name string) kubevirtv1.Disk {
	return kubevirtv1.Disk{Name: name, DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: kubevirtv1.DiskBusVirtio}}}
}
