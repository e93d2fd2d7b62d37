package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
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

// printValue prints any value as JSON or YAML; it returns false when the user asked
// for neither.
func printValue(c *cli.Context, value any) (bool, error) {
	var data []byte
	var err error
	switch c.String("output") {
	case "json":
		data, err = json.MarshalIndent(value, "", "  ")
		data = append(data, '\n')
	case "yaml":
		data, err = yaml.Marshal(value)
	default:
		return false, nil
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
