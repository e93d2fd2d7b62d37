package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"

	"virtmesh/agent/plain"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "show what happened, oldest first",
		Flags: []cli.Flag{
			namespaceFlag(), outputFlag(), localFlag(),
			&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "show every namespace"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "keep printing new events"},
			&cli.StringFlag{Name: "for", Usage: "show only events of this object's `NAME`"},
		},
		Action: events,
	}
}

func events(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(conn.rest)
	if err != nil {
		return fmt.Errorf("connect to the mesh: %w", err)
	}
	namespace := conn.namespace
	if c.Bool("all-namespaces") {
		namespace = metav1.NamespaceAll
	}
	options := metav1.ListOptions{}
	if name := c.String("for"); name != "" {
		options.FieldSelector = fields.OneTermEqualSelector("involvedObject.name", name).String()
	}
	list, err := client.CoreV1().Events(namespace).List(c.Context, options)
	if err != nil {
		return err
	}
	if printed, err := printValue(c, list); printed {
		return err
	}
	if err := printEvents(c.App.Writer, list.Items); err != nil || !c.Bool("follow") {
		return err
	}
	return followEvents(c, list.ResourceVersion, func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = options.FieldSelector
		return client.CoreV1().Events(namespace).Watch(ctx, o)
	})
}

// followEvents prints what happens after a revision.
func followEvents(c *cli.Context, revision string, start cache.WatchFuncWithContext) error {
	changes, err := followChanges(c.Context, revision, start)
	if err != nil {
		return err
	}
	defer changes.Stop()
	for change := range changes.ResultChan() {
		switch event := change.Object.(type) {
		case *corev1.Event:
			if change.Type != watch.Deleted {
				printEvent(c.App.Writer, event)
			}
		case *metav1.Status:
			return apierrors.FromObject(event)
		}
	}
	if c.Context.Err() != nil {
		return nil
	}
	return errWatchEnded
}

func printEvents(w io.Writer, items []corev1.Event) error {
	sort.SliceStable(items, func(i, j int) bool { return items[i].LastTimestamp.Before(&items[j].LastTimestamp) })
	for i := range items {
		printEvent(w, &items[i])
	}
	return nil
}

func printEvent(w io.Writer, event *corev1.Event) {
	times := ""
	if event.Count > 1 {
		times = fmt.Sprintf(" (x%d)", event.Count)
	}
	fmt.Fprintf(w, "%-6s %-8s %-24s %s/%s: %s%s\n", age(event.LastTimestamp.Time), event.Type, event.Reason,
		event.InvolvedObject.Kind, event.InvolvedObject.Name, plain.Text(event.Message), times)
}

func printEventsOf(c *cli.Context, conn *connection, object *unstructured.Unstructured) error {
	client, err := kubernetes.NewForConfig(conn.rest)
	if err != nil {
		return fmt.Errorf("connect to the mesh: %w", err)
	}
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	list, err := client.CoreV1().Events(namespace).List(c.Context, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.name", object.GetName()).String(),
	})
	if err != nil {
		return err
	}
	told := slices.DeleteFunc(list.Items, func(event corev1.Event) bool {
		return !tellsOf(event.InvolvedObject.Kind, object.GetKind())
	})
	if len(told) == 0 {
		fmt.Fprintln(c.App.Writer, "none")
		return nil
	}
	return printEvents(c.App.Writer, told)
}

// tellsOf reports whether events of one kind of object tell of another that has the same
// name: what keeps a virtual machine from running happens to its instance.
func tellsOf(kind, of string) bool {
	return kind == of || of == "VirtualMachine" && kind == "VirtualMachineInstance"
}

func printYAML(w io.Writer, value any) error {
	data, err := yaml.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = w.Write(data)
	return err
}
