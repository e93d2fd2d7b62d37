package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

func vmDeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "delete virtual machines and wait until they are gone", ArgsUsage: "NAME...",
		Flags: []cli.Flag{namespaceFlag(),
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Action: mustBePositive("timeout"), Usage: "how long to wait until they are gone"}},
		Action: vmDelete, BashComplete: offer(vmNames),
	}
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
		if err := waitDeleted(c, conn, client, name); err != nil {
			faults = append(faults, err)
			continue
		}
		fmt.Fprintf(c.App.Writer, "vm/%s deleted\n", name)
	}
	return errors.Join(faults...)
}

// waitDeleted waits until a virtual machine is gone, and says what it waits for.
func waitDeleted(c *cli.Context, conn *connection, client dynamic.Interface, name string) error {
	told := false
	vms := client.Resource(vmResource).Namespace(conn.namespace)
	err := waitFor(c.Context, vms, name, conn.patience, func(object *unstructured.Unstructured) (bool, error) {
		if object != nil && !told {
			told = true
			fmt.Fprintf(c.App.ErrWriter, "  waiting until %s is gone%s\n", name, lastKnownOf(c.Context, conn, name))
		}
		return object == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s is still being deleted%s: %w", name, lastKnownOf(c.Context, conn, name), err)
	}
	return nil
}

// lastKnownOf says what the host knows of the instance that keeps a virtual machine from
// being gone, and what helps if nothing acts on it; "" if it knows none.
func lastKnownOf(ctx context.Context, conn *connection, name string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), completionTimeout)
	defer cancel()
	client, err := dynamic.NewForConfig(conn.bare)
	if err != nil {
		return ""
	}
	local := metav1.GetOptions{ResourceVersion: "0"}
	vmi, err := client.Resource(vmiResource).Namespace(conn.namespace).Get(ctx, name, local)
	if err != nil {
		return ""
	}
	host, _, _ := unstructured.NestedString(vmi.Object, "status", "nodeName")
	if host == "" {
		return " (its instance has no host yet)"
	}
	u, err := client.Resource(nodeResource).Get(ctx, host, local)
	if err == nil && !isReady(u) {
		return fmt.Sprintf(" (its guest is on %s, which is not Ready: it ends when the host is back, or when 'virtmesh node remove %[1]s' says that it will not come back)", host)
	}
	return fmt.Sprintf(" (its guest is on %s)", host)
}

// isReady tells whether a Node is Ready.
func isReady(node *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(node.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, ok := entry.(map[string]any)
		if ok && condition["type"] == "Ready" {
			return condition["status"] == "True"
		}
	}
	return false
}
