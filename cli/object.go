package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/rest"
)

// fieldManager owns the fields that this command applies.
const fieldManager = "virtmesh"

func getCommand() *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "list objects, or show some of them", ArgsUsage: "TYPE[,TYPE...] [NAME...]",
		Description: "Examples: 'virtmesh get vm,vmi -A', 'virtmesh get vm web -o yaml', 'virtmesh get vmi -w'.",
		Flags: []cli.Flag{
			namespaceFlag(), outputFlag(), localFlag(),
			&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "list in every namespace"},
			&cli.StringFlag{Name: "selector", Aliases: []string{"l"}, Usage: "list only objects with these labels"},
			&cli.StringFlag{Name: "field-selector", Usage: "list only objects with these field values"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "keep printing changes"},
		},
		Action: get, BashComplete: offer(typesThenNames),
	}
}

// wantTables asks the server for its own columns.
func wantTables(request *rest.Request) {
	request.SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
}

func get(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("name a type, such as 'virtmesh get vm'")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	raw := c.String("output") == "json" || c.String("output") == "yaml"
	b := conn.builder().Unstructured().AllNamespaces(c.Bool("all-namespaces")).
		LabelSelectorParam(c.String("selector")).FieldSelectorParam(c.String("field-selector")).
		ResourceTypeOrNameArgs(true, c.Args().Slice()...).ContinueOnError().Latest().Flatten()
	if !raw {
		b = b.TransformRequests(wantTables)
	}
	result := b.Do()
	if raw {
		return printObjects(c, result)
	}
	infos, err := result.Infos()
	if err != nil {
		return err
	}
	found := 0
	for i, info := range infos {
		table, err := decodeTable(info.Object)
		if err != nil {
			return err
		}
		if len(table.Rows) == 0 && !c.Bool("watch") {
			continue
		}
		if found > 0 && i > 0 {
			fmt.Fprintln(c.App.Writer)
		}
		found += len(table.Rows)
		if err := printTable(c.App.Writer, table, c.String("output") == "wide", c.Bool("all-namespaces"), true); err != nil {
			return err
		}
	}
	if c.Bool("watch") {
		return watchTables(c, infos)
	}
	if found == 0 {
		fmt.Fprintln(c.App.ErrWriter, "No resources found.")
	}
	return nil
}

func printObjects(c *cli.Context, result *resource.Result) error {
	infos, err := result.Infos()
	if err != nil {
		return err
	}
	if len(infos) == 1 && result.TargetsSingleItems() {
		_, err := printValue(c, infos[0].Object)
		return err
	}
	list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
	for _, info := range infos {
		list.Items = append(list.Items, *info.Object.(*unstructured.Unstructured))
	}
	_, err = printValue(c, list)
	return err
}

func decodeTable(object runtime.Object) (*metav1.Table, error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok || u.GetKind() != "Table" {
		return nil, fmt.Errorf("the server sent %s instead of a table", object.GetObjectKind().GroupVersionKind().Kind)
	}
	table := &metav1.Table{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, table); err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	for i := range table.Rows {
		row := &table.Rows[i]
		if row.Object.Raw == nil {
			continue
		}
		partial, err := runtime.Decode(unstructured.UnstructuredJSONScheme, row.Object.Raw)
		if err != nil {
			return nil, fmt.Errorf("read table row: %w", err)
		}
		row.Object.Object = partial
	}
	return table, nil
}

func filenameFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "filename", Aliases: []string{"f"}, Usage: "file, directory or URL of manifests; - for standard input"},
		namespaceFlag(),
	}
}

// fromFiles queries what the -f flags name.
func fromFiles(c *cli.Context, conn *connection) *resource.Builder {
	options := &resource.FilenameOptions{Filenames: c.StringSlice("filename")}
	return conn.builder().Unstructured().ContinueOnError().FilenameParam(false, options).Flatten()
}

func applyCommand() *cli.Command {
	return &cli.Command{
		Name: "apply", Usage: "create or change objects as manifests say",
		Description: "Server-side apply: repeating it changes nothing. A field that another manager owns is a conflict unless --force-conflicts is given.",
		Flags: append(filenameFlags(), outputFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "let the server check the objects without storing them"},
			&cli.BoolFlag{Name: "force-conflicts", Usage: "take over fields that another manager owns"},
			&cli.StringFlag{Name: "validate", Value: "Strict", Usage: "how to treat unknown fields: Strict (an error), Warn or Ignore"},
		),
		Action: apply,
	}
}

func apply(c *cli.Context) error {
	if len(c.StringSlice("filename")) == 0 {
		return errors.New("name the manifests with -f FILE")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	found := false
	err = fromFiles(c, conn).Do().Visit(func(info *resource.Info, err error) error {
		if err != nil {
			return err
		}
		found = true
		return applyOne(c, info)
	})
	if err == nil && !found {
		return errNoObjects(c)
	}
	return err
}

// errNoObjects says that manifests contain nothing.
func errNoObjects(c *cli.Context) error {
	return fmt.Errorf("there is no object in %s", strings.Join(c.StringSlice("filename"), ", "))
}

func applyOne(c *cli.Context, info *resource.Info) error {
	data, err := runtime.Encode(unstructured.UnstructuredJSONScheme, info.Object)
	if err != nil {
		return fmt.Errorf("encode %s: %w", info.Name, err)
	}
	before := ""
	helper := resource.NewHelper(info.Client, info.Mapping)
	if current, err := helper.Get(info.Namespace, info.Name); err == nil {
		before = resourceVersion(current)
	} else if !apierrors.IsNotFound(err) {
		return err
	}
	force := c.Bool("force-conflicts")
	helper = helper.DryRun(c.Bool("dry-run")).WithFieldManager(fieldManager).WithFieldValidation(c.String("validate"))
	object, err := helper.Patch(info.Namespace, info.Name, types.ApplyPatchType, data, &metav1.PatchOptions{Force: &force})
	if apierrors.IsMethodNotSupported(err) {
		return fmt.Errorf("%s: this mesh stores no %s; %s", info.ObjectName(), info.Mapping.Resource.Resource, listOfKinds)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", info.ObjectName(), err)
	}
	if printed, err := printValue(c, object); printed {
		return err
	}
	verb := "configured"
	switch before {
	case "":
		verb = "created"
	case resourceVersion(object):
		verb = "unchanged"
	}
	if c.Bool("dry-run") {
		verb += " (dry run)"
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s %s\n", info.ObjectName(), verb)
	return err
}

func resourceVersion(object runtime.Object) string {
	if u, ok := object.(*unstructured.Unstructured); ok {
		return u.GetResourceVersion()
	}
	return ""
}

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "delete objects", ArgsUsage: "TYPE NAME... | -f FILE",
		Flags: append(filenameFlags(),
			&cli.StringFlag{Name: "selector", Aliases: []string{"l"}, Usage: "delete the objects with these labels"},
			&cli.BoolFlag{Name: "all", Usage: "delete all objects of the type in the namespace"},
			&cli.BoolFlag{Name: "ignore-not-found", Usage: "do not complain about objects that are not there"},
			&cli.BoolFlag{Name: "wait", Value: true, Usage: "wait until the objects are gone"},
		),
		Action: deleteObjects, BashComplete: offer(typesThenNames),
	}
}

func deleteObjects(c *cli.Context) error {
	named := len(c.StringSlice("filename")) > 0
	switch {
	case !named && !c.Args().Present():
		return errors.New("name a type and names, or manifests with -f FILE")
	case named && c.Args().Present():
		return fmt.Errorf("name either objects or manifests: %q is no flag's value, each manifest needs its own -f", c.Args().First())
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	b := fromFiles(c, conn)
	if !named {
		b = conn.builder().Unstructured().ContinueOnError().LabelSelectorParam(c.String("selector")).
			SelectAllParam(c.Bool("all")).ResourceTypeOrNameArgs(false, c.Args().Slice()...).RequireObject(false).Flatten()
	}
	var deleted []*resource.Info
	found := false
	err = b.Do().Visit(func(info *resource.Info, err error) error {
		if err != nil {
			return err
		}
		found = true
		policy := metav1.DeletePropagationBackground
		_, err = resource.NewHelper(info.Client, info.Mapping).
			DeleteWithOptions(info.Namespace, info.Name, &metav1.DeleteOptions{PropagationPolicy: &policy})
		if apierrors.IsNotFound(err) && c.Bool("ignore-not-found") {
			return nil
		}
		if err != nil {
			return err
		}
		deleted = append(deleted, info)
		fmt.Fprintf(c.App.Writer, "%s deleted\n", info.ObjectName())
		return nil
	})
	if err == nil && !found && named {
		return errNoObjects(c)
	}
	if err != nil || !c.Bool("wait") {
		return err
	}
	for _, info := range deleted {
		if err := waitGone(c.Context, info); err != nil {
			return err
		}
	}
	return nil
}

func describeCommand() *cli.Command {
	return &cli.Command{
		Name: "describe", Usage: "show objects with their events", ArgsUsage: "TYPE NAME...",
		Flags: []cli.Flag{namespaceFlag(), localFlag()}, Action: describe, BashComplete: offer(typesThenNames),
	}
}

func describe(c *cli.Context) error {
	if c.NArg() < 1 {
		return errors.New("name an object, such as 'virtmesh describe vm web'")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	return conn.builder().Unstructured().ResourceTypeOrNameArgs(false, c.Args().Slice()...).Flatten().Do().
		Visit(func(info *resource.Info, err error) error {
			if err != nil {
				return err
			}
			object := info.Object.(*unstructured.Unstructured)
			object.SetManagedFields(nil)
			if err := printYAML(c.App.Writer, object.Object); err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, strings.Repeat("-", 20)+" events")
			return printEventsOf(c, conn, object)
		})
}
