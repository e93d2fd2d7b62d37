package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
)

func operationCommand() *cli.Command {
	return &cli.Command{
		Name: "operation", Aliases: []string{"op"}, Usage: "look at long acts on the mesh, such as the removal of a host",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list the operations", Flags: []cli.Flag{outputFlag(), localFlag()}, Action: operationList},
			{Name: "show", Usage: "show one operation and its steps", ArgsUsage: "NAME", Flags: []cli.Flag{outputFlag(), localFlag()}, Action: operationShow, BashComplete: offer(operationNames)},
			{Name: "watch", Usage: "print the steps of an operation until it has ended", ArgsUsage: "NAME", Action: operationWatch, BashComplete: offer(operationNames)},
			{Name: "cancel", Usage: "stop an operation before its next step; what is done stays done", ArgsUsage: "NAME", Action: operationCancel, BashComplete: offer(operationNames)},
		},
	}
}

// operationClient reaches the operations.
func operationClient(conn *connection) (dynamic.ResourceInterface, error) {
	client, err := conn.dynamic()
	if err != nil {
		return nil, fmt.Errorf("connect to the mesh: %w", err)
	}
	return client.Resource(meshv1alpha1.SchemeGroupVersion.WithResource("operations")), nil
}

func operations(c *cli.Context) (dynamic.ResourceInterface, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, err
	}
	return operationClient(conn)
}

func toOperation(u *unstructured.Unstructured) (*meshv1alpha1.Operation, error) {
	op := &meshv1alpha1.Operation{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, op); err != nil {
		return nil, fmt.Errorf("read operation %s: %w", u.GetName(), err)
	}
	return op, nil
}

func operationList(c *cli.Context) error {
	client, err := operations(c)
	if err != nil {
		return err
	}
	list, err := client.List(c.Context, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if printed, err := printValue(c, list); printed {
		return err
	}
	rows := make([][]string, 0, len(list.Items))
	for i := range list.Items {
		op, err := toOperation(&list.Items[i])
		if err != nil {
			return err
		}
		rows = append(rows, []string{
			op.Name, string(op.Spec.Type), op.Spec.Target, meshv1alpha1.OperationSummary(op), meshv1alpha1.OperationProgress(op),
			age(op.CreationTimestamp.Time),
		})
	}
	return printColumns(c.App.Writer, []string{"NAME", "TYPE", "TARGET", "STATUS", "STEP", "AGE"}, rows)
}

// oneOperation reads the operation that the command names.
func oneOperation(c *cli.Context, verb string) (dynamic.ResourceInterface, *unstructured.Unstructured, error) {
	if c.NArg() != 1 {
		return nil, nil, fmt.Errorf("name one operation, as in 'virtmesh operation %s remove-host3-x7k2p'; 'virtmesh operation ls' lists them", verb)
	}
	client, err := operations(c)
	if err != nil {
		return nil, nil, err
	}
	u, err := client.Get(c.Context, c.Args().First(), metav1.GetOptions{})
	return client, u, err
}

func operationShow(c *cli.Context) error {
	_, u, err := oneOperation(c, "show")
	if err != nil {
		return err
	}
	if printed, err := printValue(c, u); printed {
		return err
	}
	op, err := toOperation(u)
	if err != nil {
		return err
	}
	w := c.App.Writer
	fmt.Fprintf(w, "Name:      %s\nType:      %s\nTarget:    %s\nRequested: %s\nStatus:    %s\n",
		op.Name, op.Spec.Type, op.Spec.Target, op.Spec.RequestedBy, meshv1alpha1.OperationSummary(op))
	if op.Status.Message != "" {
		fmt.Fprintf(w, "Message:   %s\n", op.Status.Message)
	}
	if op.Status.Owner != nil {
		fmt.Fprintf(w, "Owner:     %s\n", op.Status.Owner.Host)
	}
	fmt.Fprintln(w, "Steps:")
	for _, s := range op.Status.Steps {
		fmt.Fprintf(w, "  %-8s %-32s %s\n", s.Phase, s.Name, s.Message)
	}
	return nil
}

func operationWatch(c *cli.Context) error {
	client, u, err := oneOperation(c, "watch")
	if err != nil {
		return err
	}
	progress := stepPrinter{w: c.App.Writer}
	for {
		op, err := toOperation(u)
		if err != nil {
			return err
		}
		progress.print(op)
		if op.Status.Phase.Final() {
			return kinds.OperationError(op)
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(operationPoll):
		}
		if u, err = client.Get(c.Context, op.Name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
}

// operationPoll is the interval at which a followed operation is read.
const operationPoll = 500 * time.Millisecond

// stepPrinter prints what has changed of an operation since the last time.
type stepPrinter struct {
	w    io.Writer
	last string
}

func (p *stepPrinter) print(op *meshv1alpha1.Operation) {
	line := fmt.Sprintf("%s: %s %s", op.Name, meshv1alpha1.OperationSummary(op), meshv1alpha1.OperationProgress(op))
	if op.Status.Message != "" {
		line += ": " + op.Status.Message
	}
	if line != p.last {
		p.last = line
		fmt.Fprintln(p.w, line)
	}
}

func operationCancel(c *cli.Context) error {
	client, u, err := oneOperation(c, "cancel")
	if err != nil {
		return err
	}
	op, err := toOperation(u)
	if err != nil {
		return err
	}
	if op.Status.Phase.Final() {
		return fmt.Errorf("operation %s has ended already: %s", op.Name, op.Status.Phase)
	}
	patch := []byte(`{"spec":{"cancel":true}}`)
	if _, err := client.Patch(c.Context, op.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "operation %s stops before its next step\n", op.Name)
	return err
}

// withProgress runs act, and meanwhile prints the steps of the operations on target that
// have not ended before.
func withProgress(ctx context.Context, w io.Writer, conn *connection, target string, act func() error) error {
	client, err := operationClient(conn)
	if err != nil {
		return err
	}
	follower := &follower{client: client, target: target, ended: map[string]bool{}, told: map[string]int{}, steps: w}
	follower.look(ctx, false)
	following, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-following.Done():
				return
			case <-time.After(operationPoll):
				follower.look(following, true)
			}
		}
	}()
	err = act()
	cancel()
	<-done
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w; 'virtmesh operation ls' shows how far it is", err)
	}
	// A short operation ends between two looks.
	follower.look(ctx, true)
	return err
}

// follower prints the steps of operations on a target. It ignores read errors: the
// caller reports how the operation itself ends.
type follower struct {
	client dynamic.ResourceInterface
	target string
	steps  io.Writer
	// ended are the operations that had ended before, and told counts the steps of the
	// others that were printed as done.
	ended map[string]bool
	told  map[string]int
	last  string
}

// look reads the operations and prints what is new, or, before the act, only notes which
// have ended. It asks the host alone, which may lag behind a little.
func (f *follower) look(ctx context.Context, tell bool) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	list, err := f.client.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return
	}
	for i := range list.Items {
		op, err := toOperation(&list.Items[i])
		switch {
		case err != nil || op.Spec.Target != f.target || f.ended[op.Name]:
		case !tell && op.Status.Phase.Final():
			f.ended[op.Name] = true
		case tell:
			f.print(op)
		}
	}
}

// print prints each step that is done once, and the present one when it changes.
func (f *follower) print(op *meshv1alpha1.Operation) {
	for i := f.told[op.Name]; i < len(op.Status.Steps) && op.Status.Steps[i].Phase == meshv1alpha1.StepDone; i++ {
		fmt.Fprintf(f.steps, "%s: %d/%d %s: done\n", op.Name, i+1, len(op.Status.Steps), op.Status.Steps[i].Name)
		f.told[op.Name] = i + 1
	}
	if op.Status.Phase.Final() {
		return
	}
	line := fmt.Sprintf("%s: %s %s", op.Name, meshv1alpha1.OperationSummary(op), meshv1alpha1.OperationProgress(op))
	if op.Status.Message != "" {
		line += ": " + op.Status.Message
	}
	if line != f.last {
		f.last = line
		fmt.Fprintln(f.steps, line)
	}
}
