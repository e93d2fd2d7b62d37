package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/dynamic"
	watchtools "k8s.io/client-go/tools/watch"
)

// unstructuredNegotiator decodes whatever the server answers.
func unstructuredNegotiator() runtime.NegotiatedSerializer {
	return resource.UnstructuredPlusDefaultContentConfig().NegotiatedSerializer
}

func jsonBody(options any) ([]byte, error) {
	if options == nil {
		return []byte("{}"), nil
	}
	body, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("encode options: %w", err)
	}
	return bytes.TrimSpace(body), nil
}

// waitFor watches one object, beginning with its present state, until done returns
// true or an error, as long as the command's patience lasts. done gets nil when the object
// does not exist.
func waitFor(ctx context.Context, client dynamic.ResourceInterface, name string, p *patience,
	done func(*unstructured.Unstructured) (bool, error)) error {
	waiting, cancel := context.WithDeadline(ctx, p.until)
	defer cancel()
	err := follow(waiting, client, name, done)
	switch {
	case !wait.Interrupted(err):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("the command was interrupted: %w", ctx.Err())
	}
	return fmt.Errorf("%w of %s", errTimeOver, p.limit)
}

// follow is waitFor without a limit.
func follow(ctx context.Context, client dynamic.ResourceInterface, name string, done func(*unstructured.Unstructured) (bool, error)) error {
	object, err := client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		object, err = nil, nil
	}
	if err != nil {
		return err
	}
	if ok, err := done(object); ok || err != nil {
		return err
	}
	revision := ""
	if object != nil {
		revision = object.GetResourceVersion()
	}
	watcher := &singleWatcher{client: client, name: name}
	_, err = watchtools.Until(ctx, revision, watcher, func(event watch.Event) (bool, error) {
		switch event.Type {
		case watch.Deleted:
			return done(nil)
		case watch.Error:
			return false, apierrors.FromObject(event.Object)
		}
		return done(event.Object.(*unstructured.Unstructured))
	})
	return err
}

// errTimeOver says that a command waited as long as it was told.
var errTimeOver = errors.New("waited the whole time")

// singleWatcher watches one object by name.
type singleWatcher struct {
	client dynamic.ResourceInterface
	name   string
}

func (w *singleWatcher) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return w.WatchWithContext(context.Background(), options)
}

// WatchWithContext starts a watch that ends with ctx.
func (w *singleWatcher) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.FieldSelector = fields.OneTermEqualSelector("metadata.name", w.name).String()
	return w.client.Watch(ctx, options)
}

// waitRunning waits until a VirtualMachine runs, and prints each state on the way.
// When it gives up it says why the machine does not run, as its conditions tell.
func waitRunning(c *cli.Context, client dynamic.ResourceInterface, name string, p *patience) error {
	last, reason, seen := "", "", false
	err := waitFor(c.Context, client, name, p, func(vm *unstructured.Unstructured) (bool, error) {
		switch {
		case vm == nil && !seen:
			return false, apierrors.NewNotFound(vmResource.GroupResource(), name)
		case vm == nil:
			return false, errors.New("it was deleted")
		}
		seen = true
		status, _, _ := unstructured.NestedString(vm.Object, "status", "printableStatus")
		reason = obstacle(vm)
		if status != last && status != "" {
			fmt.Fprintf(c.App.ErrWriter, "  %s\n", status)
			last = status
		}
		return status == "Running", nil
	})
	switch {
	case err == nil:
		return nil
	case !seen:
		return err
	case reason != "":
		return fmt.Errorf("%s is not Running but %q: %s (%w); 'virtmesh vm show %s' says more", name, last, reason, err, name)
	}
	return fmt.Errorf("%s is not Running but %q: %w; 'virtmesh vm show %s' says more", name, last, err, name)
}

// obstacles are the conditions that keep a VirtualMachine from running while they
// have the given status, the most telling first.
var obstacles = [][2]string{
	{"Failure", "True"}, {"Synchronized", "False"}, {"PodScheduled", "False"}, {"DataVolumesReady", "False"}, {"Paused", "True"},
}

// obstacle returns why a VirtualMachine does not run, in the words of its
// conditions, or "" if they do not tell.
func obstacle(vm *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(vm.Object, "status", "conditions")
	for _, wanted := range obstacles {
		for _, entry := range conditions {
			condition, ok := entry.(map[string]any)
			if !ok || condition["type"] != wanted[0] || condition["status"] != wanted[1] {
				continue
			}
			if message, ok := condition["message"].(string); ok && message != "" {
				return message
			}
			if reason, ok := condition["reason"].(string); ok && reason != "" {
				return reason
			}
		}
	}
	return ""
}
