package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/plain"
)

var (
	vmResource  = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachines")
	vmiResource = kubevirtv1.SchemeGroupVersion.WithResource("virtualmachineinstances")
	// nodeResource is the hosts.
	nodeResource = corev1.SchemeGroupVersion.WithResource("nodes")
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
			act("restart", "stop and start virtual machines", "virtualmachines", "asked to restart"),
			act("pause", "stop the CPUs of running guests; their memory stays", "virtualmachineinstances", "paused"),
			act("unpause", "continue paused guests", "virtualmachineinstances", "unpaused"),
			{Name: "console", Usage: "attach to the guest's serial console; Ctrl+] leaves it", ArgsUsage: "NAME",
				Flags: []cli.Flag{namespaceFlag()}, Action: vmConsole, BashComplete: offer(vmNames)},
			{Name: "vnc", Usage: "make the guest's display reachable for a VNC viewer on this machine", ArgsUsage: "NAME",
				Flags:  []cli.Flag{namespaceFlag(), &cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "where the viewer connects to"}},
				Action: vmVNC, BashComplete: offer(vmNames)},
			{Name: "wait", Usage: "wait until virtual machines are Running", ArgsUsage: "NAME...", Action: vmWait, BashComplete: offer(vmNames),
				Flags: []cli.Flag{namespaceFlag(), &cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Action: mustBePositive("timeout"), Usage: "how long to wait"}}},
			vmDeleteCommand(),
		},
	}
}

func vmStartCommand() *cli.Command {
	return &cli.Command{Name: "start", Usage: "start virtual machines", ArgsUsage: "NAME...", BashComplete: offer(vmNames),
		Flags: []cli.Flag{namespaceFlag(), &cli.BoolFlag{Name: "paused", Usage: "start with the guest frozen before its first instruction"}},
		Action: func(c *cli.Context) error {
			return actOnVMs(c, "virtualmachines", "start", "asked to start", &kubevirtv1.StartOptions{Paused: c.Bool("paused")})
		}}
}

func vmStopCommand() *cli.Command {
	return &cli.Command{Name: "stop", Usage: "shut virtual machines down", ArgsUsage: "NAME...", BashComplete: offer(vmNames),
		Flags: []cli.Flag{namespaceFlag(),
			&cli.Int64Flag{Name: "grace-period", Value: -1, Usage: "seconds the guest has to shut down before its power is cut"},
			&cli.BoolFlag{Name: "force", Usage: "cut the power at once"}},
		Action: func(c *cli.Context) error {
			options := &kubevirtv1.StopOptions{}
			if c.IsSet("grace-period") {
				grace := c.Int64("grace-period")
				if grace < 0 {
					return fmt.Errorf("--grace-period must be 0 or more seconds, and not %d", grace)
				}
				options.GracePeriod = &grace
			}
			if c.Bool("force") {
				if c.Int64("grace-period") > 0 {
					return errors.New("--force gives the guest no time, and --grace-period some; use one of them")
				}
				none := int64(0)
				options.GracePeriod = &none
			}
			return actOnVMs(c, "virtualmachines", "stop", "asked to stop", options)
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
		fmt.Fprintf(w, "Condition: %s=%s %s %s\n", condition.Type, condition.Status, condition.Reason, plain.Text(condition.Message))
	}
	return nil
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
		if err := waitRunning(c, vms, name, conn.patience); err != nil {
			return err
		}
	}
	return nil
}
