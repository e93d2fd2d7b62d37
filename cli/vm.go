package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

var (
	vmResource  = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachines")
	vmiResource = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachineinstances")
	// subresources is KubeVirt's API group of actions on a VM (start, stop, console).
	subresources = schema.GroupVersion{Group: "subresources.kubevirt.io", Version: "v1"}
)

func vmCommand() *cli.Command {
	act := func(name, usage, kind, verb string) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "NAME...", Flags: []cli.Flag{namespaceFlag()},
			BashComplete: offer(vmNames),
			Action:       func(c *cli.Context) error { return actOnVMs(c, kind, name, verb, nil) }}
	}
	return &cli.Command{
		Name: "vm", Usage: "create, run and reach virtual machines",
		Subcommands: []*cli.Command{
			vmCreateCommand(),
			{Name: "ls", Usage: "list virtual machines", Action: vmList, Flags: []cli.Flag{
				namespaceFlag(), outputFlag(), localFlag(),
				&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "list in every namespace"},
			}},
			{Name: "show", Usage: "show a virtual machine, its instance and its events", ArgsUsage: "NAME",
				Flags: []cli.Flag{namespaceFlag(), outputFlag(), localFlag()}, Action: vmShow, BashComplete: offer(vmNames)},
			vmStartCommand(), vmStopCommand(),
			act("restart", "stop and start virtual machines", "virtualmachines", "restarted"),
			act("pause", "stop the CPUs of running guests; their memory stays", "virtualmachineinstances", "paused"),
			act("unpause", "continue paused guests", "virtualmachineinstances", "unpaused"),
			{Name: "console", Usage: "attach to the guest's serial console; Ctrl+] leaves it", ArgsUsage: "NAME",
				Flags: []cli.Flag{namespaceFlag()}, Action: vmConsole, BashComplete: offer(vmNames)},
			{Name: "vnc", Usage: "make the guest's display reachable for a VNC viewer on this machine", ArgsUsage: "NAME",
				Flags:  []cli.Flag{namespaceFlag(), &cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "where the viewer connects to"}},
				Action: vmVNC, BashComplete: offer(vmNames)},
			{Name: "wait", Usage: "wait until virtual machines are Running", ArgsUsage: "NAME...", Action: vmWait, BashComplete: offer(vmNames),
				Flags: []cli.Flag{namespaceFlag(), &cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Action: mustBePositive("timeout"), Usage: "how long to wait"}}},
			{Name: "delete", Usage: "delete virtual machines and wait until they are gone", ArgsUsage: "NAME...",
				Flags: []cli.Flag{namespaceFlag()}, Action: vmDelete, BashComplete: offer(vmNames)},
		},
	}
}

func vmStartCommand() *cli.Command {
	return &cli.Command{Name: "start", Usage: "start virtual machines", ArgsUsage: "NAME...", BashComplete: offer(vmNames),
		Flags: []cli.Flag{namespaceFlag(), &cli.BoolFlag{Name: "paused", Usage: "start with the guest frozen before its first instruction"}},
		Action: func(c *cli.Context) error {
			return actOnVMs(c, "virtualmachines", "start", "started", &kubevirtv1.StartOptions{Paused: c.Bool("paused")})
		}}
}

func vmStopCommand() *cli.Command {
	return &cli.Command{Name: "stop", Usage: "shut virtual machines down", ArgsUsage: "NAME...", BashComplete: offer(vmNames),
		Flags: []cli.Flag{namespaceFlag(),
			&cli.Int64Flag{Name: "grace-period", Value: -1, Usage: "seconds the guest has to shut down before its power is cut"},
			&cli.BoolFlag{Name: "force", Usage: "cut the power at once"}},
		Action: func(c *cli.Context) error {
			options := &kubevirtv1.StopOptions{}
			if grace := c.Int64("grace-period"); grace >= 0 {
				options.GracePeriod = &grace
			}
			if c.Bool("force") {
				none := int64(0)
				options.GracePeriod = &none
			}
			return actOnVMs(c, "virtualmachines", "stop", "stopped", options)
		}}
}

// subresourceClient makes a client for the API group subresources, whose answers have
// no kind.
func (c *connection) subresourceClient() (*rest.RESTClient, error) {
	config := rest.CopyConfig(c.rest)
	gv := subresources
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	config.NegotiatedSerializer = unstructuredNegotiator()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the mesh: %w", err)
	}
	return client, nil
}

func actOnVMs(c *cli.Context, kind, act, done string, options any) error {
	if !c.Args().Present() {
		return errors.New("name at least one virtual machine")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	client, err := conn.subresourceClient()
	if err != nil {
		return err
	}
	body, err := jsonBody(options)
	if err != nil {
		return err
	}
	for _, name := range c.Args().Slice() {
		path := fmt.Sprintf("/apis/%s/namespaces/%s/%s/%s/%s", subresources, conn.namespace, kind, name, act)
		if err := client.Put().AbsPath(path).Body(body).Do(c.Context).Error(); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "vm/%s %s\n", name, done)
	}
	return nil
}

func vmList(c *cli.Context) error {
	conn, client, err := connectDynamic(c)
	if err != nil {
		return err
	}
	namespace := conn.namespace
	if c.Bool("all-namespaces") {
		namespace = metav1.NamespaceAll
	}
	vms, err := client.Resource(vmResource).Namespace(namespace).List(c.Context, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if printed, err := printValue(c, vms); printed {
		return err
	}
	instances, err := client.Resource(vmiResource).Namespace(namespace).List(c.Context, metav1.ListOptions{})
	if err != nil {
		return err
	}
	running := map[string]*kubevirtv1.VirtualMachineInstance{}
	for i := range instances.Items {
		vmi := &kubevirtv1.VirtualMachineInstance{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(instances.Items[i].Object, vmi); err != nil {
			return fmt.Errorf("read instance %s: %w", instances.Items[i].GetName(), err)
		}
		running[vmi.Namespace+"/"+vmi.Name] = vmi
	}
	rows := make([][]string, 0, len(vms.Items))
	for i := range vms.Items {
		rows = append(rows, vmRow(&vms.Items[i], running, c.Bool("all-namespaces")))
	}
	header := []string{"NAME", "STATUS", "READY", "HOST", "IP", "AGE"}
	if c.Bool("all-namespaces") {
		header = append([]string{"NAMESPACE"}, header...)
	}
	return printColumns(c.App.Writer, header, rows)
}

func vmRow(vm *unstructured.Unstructured, running map[string]*kubevirtv1.VirtualMachineInstance, withNamespace bool) []string {
	status, _, _ := unstructured.NestedString(vm.Object, "status", "printableStatus")
	ready, _, _ := unstructured.NestedBool(vm.Object, "status", "ready")
	row := []string{vm.GetName(), status, fmt.Sprint(ready), "", "", age(vm.GetCreationTimestamp().Time)}
	if vmi := running[vm.GetNamespace()+"/"+vm.GetName()]; vmi != nil {
		row[3] = vmi.Status.NodeName
		if len(vmi.Status.Interfaces) > 0 {
			row[4] = vmi.Status.Interfaces[0].IP
		}
	}
	if withNamespace {
		row = append([]string{vm.GetNamespace()}, row...)
	}
	return row
}

func vmShow(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name one virtual machine")
	}
	conn, client, err := connectDynamic(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	vm, err := client.Resource(vmResource).Namespace(conn.namespace).Get(c.Context, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if printed, err := printValue(c, vm); printed {
		return err
	}
	status, _, _ := unstructured.NestedString(vm.Object, "status", "printableStatus")
	w := c.App.Writer
	fmt.Fprintf(w, "Name:      %s/%s\nStatus:    %s\nAge:       %s\n", vm.GetNamespace(), vm.GetName(), status, age(vm.GetCreationTimestamp().Time))
	if instance, err := client.Resource(vmiResource).Namespace(conn.namespace).Get(c.Context, name, metav1.GetOptions{}); err == nil {
		if err := printInstance(c, instance); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "Events:")
	return printEventsOf(c, conn, vm)
}

func printInstance(c *cli.Context, object *unstructured.Unstructured) error {
	vmi := &kubevirtv1.VirtualMachineInstance{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, vmi); err != nil {
		return fmt.Errorf("read instance %s: %w", object.GetName(), err)
	}
	w := c.App.Writer
	fmt.Fprintf(w, "Host:      %s\nPhase:     %s\n", vmi.Status.NodeName, vmi.Status.Phase)
	if vmi.Status.GuestOSInfo.PrettyName != "" {
		fmt.Fprintf(w, "Guest OS:  %s\n", vmi.Status.GuestOSInfo.PrettyName)
	}
	for _, nic := range vmi.Status.Interfaces {
		name := nic.Name
		if name == "" {
			name = nic.InterfaceName // the guest alone knows the card
		}
		fmt.Fprintf(w, "Interface: %s %s %s\n", name, nic.MAC, strings.Join(nic.IPs, ","))
	}
	for _, condition := range vmi.Status.Conditions {
		fmt.Fprintf(w, "Condition: %s=%s %s %s\n", condition.Type, condition.Status, condition.Reason, condition.Message)
	}
	return nil
}

func vmDelete(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("name at least one virtual machine")
	}
	conn, client, err := connectDynamic(c)
	if err != nil {
		return err
	}
	vms := client.Resource(vmResource).Namespace(conn.namespace)
	// What one name does wrong is told, and does not hide what becomes of the others.
	var faults []error
	var going []string
	for _, name := range c.Args().Slice() {
		if err := vms.Delete(c.Context, name, metav1.DeleteOptions{}); err != nil {
			faults = append(faults, err)
			continue
		}
		going = append(going, name)
	}
	for _, name := range going {
		if err := waitDeleted(c, vms, name); err != nil {
			faults = append(faults, err)
			continue
		}
		fmt.Fprintf(c.App.Writer, "vm/%s deleted\n", name)
	}
	return errors.Join(faults...)
}

func vmWait(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("name at least one virtual machine")
	}
	conn, client, err := connectDynamic(c)
	if err != nil {
		return err
	}
	vms := client.Resource(vmResource).Namespace(conn.namespace)
	for _, name := range c.Args().Slice() {
		if err := waitRunning(c, vms, name, time.Until(conn.patience.until)); err != nil {
			return err
		}
	}
	return nil
}

func vmCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "create a virtual machine from a container disk, and start it", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			namespaceFlag(), outputFlag(),
			&cli.StringFlag{Name: "image", Usage: "container disk image to boot from (required)"},
			&cli.UintFlag{Name: "cpu", Value: 1, Usage: "virtual CPUs"},
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
		return printYAML(c.App.Writer, content)
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
		return waitRunning(c, vms, vm.Name, time.Until(conn.patience.until))
	}
	return nil
}

func newVM(c *cli.Context) (*kubevirtv1.VirtualMachine, error) {
	memory, err := resource.ParseQuantity(c.String("memory"))
	if err != nil {
		return nil, fmt.Errorf("--memory %q: %w", c.String("memory"), err)
	}
	strategy := kubevirtv1.VirtualMachineRunStrategy(c.String("run-strategy"))
	name := c.Args().First()
	vm := &kubevirtv1.VirtualMachine{}
	vm.APIVersion, vm.Kind = kubevirtv1.SchemeGroupVersion.String(), "VirtualMachine"
	vm.Name = name
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

// minimumPatience is how long a command waits for something that has no
// timeout flag, such as a deletion with a grace period.
const minimumPatience = 5 * time.Minute
