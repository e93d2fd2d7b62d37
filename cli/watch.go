package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// errWatchEnded says that the server ended a watch that could not be resumed.
var errWatchEnded = errors.New("the watch ended; the host may have gone")

// followChanges runs the watch that start begins, from a revision on. The server ends
// each watch after half an hour or so; followChanges then resumes it where it ended.
func followChanges(ctx context.Context, revision string, start cache.WatchFuncWithContext) (watch.Interface, error) {
	w, err := watchtools.NewRetryWatcherWithContext(ctx, revision, &cache.ListWatch{WatchFuncWithContext: start})
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	return w, nil
}

// watchTables prints the changes of all infos (lists or single objects) after the
// revisions that they contain. The column heads are printed again when a row has
// another type than the row before.
func watchTables(c *cli.Context, infos []*resource.Info) error {
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	type change struct {
		info  *resource.Info
		event watch.Event
	}
	changes := make(chan change)
	for _, info := range infos {
		w, err := followInfo(ctx, c, info)
		if err != nil {
			return err
		}
		go func() {
			for event := range w.ResultChan() {
				select {
				case changes <- change{info, event}:
				case <-ctx.Done():
					return
				}
			}
			cancel()
		}()
	}
	heads := map[*resource.Info][]metav1.TableColumnDefinition{}
	last := infos[len(infos)-1]
	for {
		select {
		case <-ctx.Done():
			if c.Context.Err() != nil {
				return nil
			}
			return errWatchEnded
		case next := <-changes:
			if next.event.Type == watch.Error {
				return apierrors.FromObject(next.event.Object)
			}
			table, err := decodeTable(next.event.Object)
			if err != nil {
				return err
			}
			// The server sends the heads with a watch's first row only.
			if len(table.ColumnDefinitions) > 0 {
				heads[next.info] = table.ColumnDefinitions
			}
			table.ColumnDefinitions = heads[next.info]
			if err := printChange(c, table, next.info.Mapping != last.Mapping); err != nil {
				return err
			}
			last = next.info
		}
	}
}

// followInfo watches the list or the object that info holds.
func followInfo(ctx context.Context, c *cli.Context, info *resource.Info) (watch.Interface, error) {
	labels, fieldSelector := c.String("selector"), c.String("field-selector")
	if info.Name != "" {
		labels, fieldSelector = "", fields.OneTermEqualSelector("metadata.name", info.Name).String()
	}
	helper := resource.NewHelper(info.Client, info.Mapping)
	return followChanges(ctx, info.ResourceVersion, func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.LabelSelector, o.FieldSelector = labels, fieldSelector
		return helper.Watch(info.Namespace, info.Mapping.GroupVersionKind.GroupVersion().String(), &o)
	})
}

func printChange(c *cli.Context, table *metav1.Table, heads bool) error {
	if heads {
		fmt.Fprintln(c.App.Writer)
	}
	return printTable(c.App.Writer, table, c.String("output") == "wide", c.Bool("all-namespaces"), heads)
}

// waitGone watches one object until it is deleted.
func waitGone(ctx context.Context, info *resource.Info) error {
	helper := resource.NewHelper(info.Client, info.Mapping)
	object, err := helper.Get(info.Namespace, info.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, err := followChanges(ctx, resourceVersion(object), func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return helper.WatchSingle(info.Namespace, info.Name, o.ResourceVersion)
	})
	if err != nil {
		return err
	}
	for event := range changes.ResultChan() {
		switch event.Type {
		case watch.Deleted:
			return nil
		case watch.Error:
			return fmt.Errorf("%s: %w", info.ObjectName(), apierrors.FromObject(event.Object))
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s is still being deleted", info.ObjectName())
	}
	return fmt.Errorf("%s: the watch ended before the object was gone: %w", info.ObjectName(), io.ErrUnexpectedEOF)
}
