package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"virtmesh/agent/host"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/plain"
	"virtmesh/agent/port/admin"
)

func nodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "list, show, cordon and remove hosts",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list the hosts", Flags: []cli.Flag{outputFlag(), localFlag()}, Action: nodeList},
			{Name: "show", Usage: "show one host", ArgsUsage: "NAME", Flags: []cli.Flag{outputFlag(), localFlag()}, Action: nodeShow, BashComplete: offer(memberNames)},
			{Name: "cordon", Usage: "place no new instances on the hosts", ArgsUsage: "NAME...",
				BashComplete: offer(memberNames), Action: func(c *cli.Context) error { return setUnschedulable(c, true) }},
			{Name: "uncordon", Usage: "place instances on the hosts again", ArgsUsage: "NAME...",
				BashComplete: offer(memberNames), Action: func(c *cli.Context) error { return setUnschedulable(c, false) }},
			{Name: "remove", Usage: "remove hosts from the mesh that are dead and will not come back", ArgsUsage: "NAME...", Action: nodeRemove, BashComplete: offer(memberNames),
				Description: "A host that gossip or the leader still hears is refused: run 'virtmesh agent leave' on it instead. " +
					"Afterwards the join tokens are revoked and the gossip key is replaced (at feature level 4), and if the host may have the key of the mesh's CA, " +
					"the CA is, too (at feature level 5, once there is a recovery bundle). The Secrets that the host could read are listed.",
				Flags: []cli.Flag{yesFlag(),
					&cli.BoolFlag{Name: "keep-keys", Usage: "do not replace the gossip key and the CA, whose keys the hosts may have, and revoke no join tokens"},
					&cli.BoolFlag{Name: "force", Usage: "remove the hosts even if the mesh still hears them; needs --yes"}}},
		},
	}
}

func kubernetesClient(c *cli.Context) (*kubernetes.Clientset, *connection, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(conn.rest)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the mesh: %w", err)
	}
	return client, conn, nil
}

func nodeList(c *cli.Context) error {
	client, _, err := kubernetesClient(c)
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(c.Context, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if printed, err := printValue(c, nodes); printed {
		return err
	}
	rows := make([][]string, 0, len(nodes.Items))
	for i := range nodes.Items {
		rows = append(rows, nodeRow(&nodes.Items[i], c.String("output") == "wide"))
	}
	header := []string{"NAME", "STATUS", "ROLE", "ADDRESS", "ZONE", "CPU", "MEMORY", "AGE"}
	if c.String("output") == "wide" {
		header = append(header, "VERSION", "KERNEL", "OS")
	}
	return printColumns(c.App.Writer, header, rows)
}

func nodeRow(node *corev1.Node, wide bool) []string {
	row := []string{
		node.Name, nodeStatus(node), nodeRole(node), nodeAddress(node), node.Labels[corev1.LabelTopologyZone],
		node.Status.Allocatable.Cpu().String(), node.Status.Allocatable.Memory().String(), age(node.CreationTimestamp.Time),
	}
	if wide {
		info := node.Status.NodeInfo
		row = append(row, info.KubeletVersion, info.KernelVersion, info.OSImage)
	}
	return row
}

// nodeRole says what a host does, by its role in agent.yaml.
func nodeRole(node *corev1.Node) string {
	if objects.IsWitness(node) {
		return host.RoleWitness
	}
	return host.RoleWorker
}

func nodeStatus(node *corev1.Node) string {
	status := "NotReady"
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if node.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeAddress(node *corev1.Node) string {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return address.Address
		}
	}
	return ""
}

func nodeShow(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name one host, as in 'virtmesh node show host1'")
	}
	client, conn, err := kubernetesClient(c)
	if err != nil {
		return err
	}
	node, err := client.CoreV1().Nodes().Get(c.Context, c.Args().First(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	if printed, err := printValue(c, node); printed {
		return err
	}
	w := c.App.Writer
	fmt.Fprintf(w, "Name:      %s\nStatus:    %s\nAddress:   %s\nZone:      %s\n", node.Name, nodeStatus(node), nodeAddress(node), node.Labels[corev1.LabelTopologyZone])
	fmt.Fprintf(w, "Version:   %s\nKernel:    %s\nOS:        %s\n", node.Status.NodeInfo.KubeletVersion, node.Status.NodeInfo.KernelVersion, node.Status.NodeInfo.OSImage)
	fmt.Fprintf(w, "Allocatable: cpu %s, memory %s\n", node.Status.Allocatable.Cpu(), node.Status.Allocatable.Memory())
	fmt.Fprintln(w, "Conditions:")
	for _, condition := range node.Status.Conditions {
		fmt.Fprintf(w, "  %-16s %-8s %s: %s\n", condition.Type, condition.Status, condition.Reason, plain.Text(condition.Message))
	}
	return printInstancesOn(c, conn, node.Name)
}

func printInstancesOn(c *cli.Context, conn *connection, host string) error {
	client, err := conn.dynamic()
	if err != nil {
		return fmt.Errorf("connect to the mesh: %w", err)
	}
	list, err := client.Resource(vmiResource).List(c.Context, metav1.ListOptions{LabelSelector: "kubevirt.io/nodeName=" + host})
	if err != nil {
		return err
	}
	names := make([]string, 0, len(list.Items))
	for _, item := range list.Items {
		names = append(names, item.GetNamespace()+"/"+item.GetName())
	}
	_, err = fmt.Fprintf(c.App.Writer, "Instances: %d %s\n", len(names), strings.Join(names, " "))
	return err
}

func nodeRemove(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("name at least one host")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.Bool("keep-keys") {
		query.Set("keepKeys", "true")
	}
	if c.Bool("force") {
		if !c.Bool("yes") {
			return fmt.Errorf("if %s still runs, its virtual machines run twice once the mesh starts them elsewhere, and can destroy their disks; switch it off first, then repeat with --force --yes", strings.Join(c.Args().Slice(), ", "))
		}
		query.Set("force", "true")
	}
	for _, name := range c.Args().Slice() {
		var removed *admin.Removed
		err := withProgress(c.Context, c.App.ErrWriter, conn, name, func() (err error) {
			removed, err = removeNode(c, conn, name, query)
			return err
		})
		if err != nil {
			return err
		}
		tellRemoved(c, name, removed)
	}
	return nil
}

// removeNode asks for a removal. An earlier version of the agent does not say what is left to
// do (nil), and does not know --keep-keys, since it replaces no keys.
func removeNode(c *cli.Context, conn *connection, name string, query url.Values) (*admin.Removed, error) {
	response, err := conn.call(c.Context, http.MethodDelete, "/mesh/v1/hosts/"+url.PathEscape(name)+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return nil, nil
	}
	removed := &admin.Removed{}
	if err := json.NewDecoder(response.Body).Decode(removed); err != nil {
		return nil, fmt.Errorf("%s is removed; read the agent's answer: %w", name, err)
	}
	return removed, nil
}

// tellRemoved says that a host is removed, and what is left to do.
func tellRemoved(c *cli.Context, name string, removed *admin.Removed) {
	fmt.Fprintf(c.App.Writer, "host %s removed\n", name)
	if removed == nil {
		return
	}
	if !removed.KeysReplaced {
		fmt.Fprintf(c.App.ErrWriter, "%s still knows the gossip key: 'virtmesh gossip rotate-key' replaces it, at feature level %d\n", name, level.Apart)
	}
	caAfterRemoval(c, name, removed)
	switch {
	case removed.KeepsKeys && (removed.CAReplaced || removed.CAKept != ""):
		fmt.Fprintf(c.App.ErrWriter, "%s may still have the key for Secrets: run 'virtmesh secrets rotate-key'\n", name)
	case removed.KeepsKeys:
		fmt.Fprintf(c.App.ErrWriter, "%s may still have the key of the mesh's CA, which opens every backup, and the key for Secrets: run 'virtmesh ca rotate' and 'virtmesh secrets rotate-key'\n", name)
	}
	if removed.MadeBundle {
		fmt.Fprintf(c.App.ErrWriter, "the newest recovery bundle was made on %s, which may have a copy: make another one with 'virtmesh keyring bundle', and then replace the keys with 'virtmesh ca rotate' and 'virtmesh secrets rotate-key'\n", name)
	}
	if len(removed.Tokens) > 0 {
		fmt.Fprintf(c.App.Writer, "join tokens that were not used are revoked: %s\n", strings.Join(removed.Tokens, ", "))
	}
	if len(removed.Secrets) > 0 {
		fmt.Fprintf(c.App.Writer, "%s could read these Secrets; change what is in them:\n  %s\n", name, strings.Join(removed.Secrets, "\n  "))
	}
}

func setUnschedulable(c *cli.Context, unschedulable bool) error {
	if !c.Args().Present() {
		return errors.New("name at least one host")
	}
	client, _, err := kubernetesClient(c)
	if err != nil {
		return err
	}
	verb := "uncordoned"
	if unschedulable {
		verb = "cordoned"
	}
	for _, name := range c.Args().Slice() {
		node, err := client.CoreV1().Nodes().Get(c.Context, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if node.Spec.Unschedulable == unschedulable {
			fmt.Fprintf(c.App.Writer, "node/%s already %s\n", name, verb)
			continue
		}
		patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, unschedulable)
		if _, err := client.CoreV1().Nodes().Patch(c.Context, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "node/%s %s\n", name, verb)
	}
	return nil
}
