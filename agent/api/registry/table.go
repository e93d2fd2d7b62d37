package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"virtmesh/agent/kinds"
)

// table renders objects of a kind as the rows that kubectl get prints.
type table struct {
	name    func(obj runtime.Object) string // nil: the name itself
	columns []kinds.Column
	heads   []metav1.TableColumnDefinition
}

var _ rest.TableConvertor = (*table)(nil)

func newTable(k *kinds.Kind) rest.TableConvertor {
	if len(k.Columns) == 0 {
		return rest.NewDefaultTableConvertor(k.GroupResource())
	}
	t := &table{name: k.NameCell, columns: k.Columns, heads: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "The name of the object"},
	}}
	for _, c := range k.Columns {
		head := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Description: c.Description}
		if head.Type == "date" {
			head.Type = "string" // the cell holds the elapsed time, as for built-in kinds
		}
		if c.Wide {
			head.Priority = 1
		}
		t.heads = append(t.heads, head)
	}
	return t
}

// ConvertToTable implements rest.TableConvertor.
func (t *table) ConvertToTable(_ context.Context, obj, opts runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := opts.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = t.heads
	}
	if list, err := meta.ListAccessor(obj); err == nil {
		out.ResourceVersion = list.GetResourceVersion()
		out.Continue = list.GetContinue()
		out.RemainingItemCount = list.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(obj); err == nil {
		out.ResourceVersion = m.GetResourceVersion()
	}
	var err error
	out.Rows, err = metatable.MetaToTableRow(obj, t.row)
	return out, err
}

func (t *table) row(obj runtime.Object, _ metav1.Object, name, _ string) ([]any, error) {
	cells := make([]any, 0, len(t.heads))
	if t.name != nil {
		name = t.name(obj)
	}
	cells = append(cells, name)
	for _, c := range t.columns {
		cell := c.Value(obj)
		if cell == nil {
			cell = "<none>"
		}
		cells = append(cells, cell)
	}
	return cells, nil
}
