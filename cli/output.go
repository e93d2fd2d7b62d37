package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// outputFlag chooses how a result is printed.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "print as json, yaml or wide (default: a table)",
		Action: func(_ *cli.Context, value string) error {
			switch value {
			case "", "json", "yaml", "wide":
				return nil
			}
			return fmt.Errorf("--output %q is not json, yaml or wide", value)
		}}
}

// presentable returns what a program expects to read: an object of the API has its kind
// and no bookkeeping of field managers, as in kubectl, and a list without members is
// empty and not null.
func presentable(value any) (any, error) {
	object, ok := value.(runtime.Object)
	if !ok {
		if v := reflect.ValueOf(value); v.Kind() == reflect.Slice && v.IsNil() {
			return []any{}, nil
		}
		return value, nil
	}
	object = object.DeepCopyObject()
	if meta.IsListType(object) {
		err := meta.EachListItem(object, completeObject)
		if err == nil && meta.LenList(object) == 0 {
			err = meta.SetList(object, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("read the list: %w", err)
		}
	}
	return object, completeObject(object)
}

// completeObject gives an object of a Go type its kind, and removes its managed fields.
func completeObject(object runtime.Object) error {
	if object.GetObjectKind().GroupVersionKind().Empty() {
		gvks, _, err := scheme.Scheme.ObjectKinds(object)
		if err != nil {
			return fmt.Errorf("find the kind of %T: %w", object, err)
		}
		object.GetObjectKind().SetGroupVersionKind(gvks[0])
	}
	if o, err := meta.Accessor(object); err == nil {
		o.SetManagedFields(nil)
	}
	return nil
}

// printValue prints any value as JSON or YAML; it returns false when the user asked
// for neither.
func printValue(c *cli.Context, value any) (bool, error) {
	format := c.String("output")
	if format != "json" && format != "yaml" {
		return false, nil
	}
	value, err := presentable(value)
	if err != nil {
		return true, err
	}
	var data []byte
	switch format {
	case "json":
		data, err = json.MarshalIndent(value, "", "  ")
		data = append(data, '\n')
	case "yaml":
		data, err = yaml.Marshal(value)
	}
	if err != nil {
		return true, fmt.Errorf("encode output: %w", err)
	}
	_, err = c.App.Writer.Write(data)
	return true, err
}

// printTable prints a table that the server made.
func printTable(w io.Writer, table *metav1.Table, wide, withNamespace, withHeader bool) error {
	printer := printers.NewTablePrinter(printers.PrintOptions{
		Wide: wide, WithNamespace: withNamespace, NoHeaders: !withHeader,
	})
	return printer.PrintObj(runtime.Object(table), w)
}

// printColumns prints rows under a header, aligned.
func printColumns(w io.Writer, header []string, rows [][]string) error {
	tab := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tab, strings.Join(header, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(tab, strings.Join(row, "\t"))
	}
	return tab.Flush()
}

// age prints how long ago something was, as kubectl does.
func age(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t))
}
