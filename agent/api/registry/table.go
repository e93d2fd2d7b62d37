package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"virtmesh/agent/api/store"
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
		return decodingTable{rest.NewDefaultTableConvertor(k.GroupResource())}
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
	return decodingTable{t}
}

// decodingTable decodes the objects that its TableConvertor renders: those of a list one
// by one, so that they are not all in memory at once.
type decodingTable struct{ rest.TableConvertor }

// ConvertToTable implements rest.TableConvertor.
func (t decodingTable) ConvertToTable(ctx context.Context, obj, opts runtime.Object) (*metav1.Table, error) {
	list, ok := obj.(*store.UndecodedList)
	if !ok {
		obj, err := store.Decoded(obj)
		if err != nil {
			return nil, err
		}
		return t.TableConvertor.ConvertToTable(ctx, obj, opts)
	}
	items, bare := list.Items, *list
	bare.Items = nil
	heads, err := store.Decoded(&bare)
	if err != nil {
		return nil, err
	}
	out, err := t.TableConvertor.ConvertToTable(ctx, heads, opts)
	if err != nil {
		return nil, err
	}
	o, _ := opts.(*metav1.TableOptions)
	whole := o != nil && o.IncludeObject == metav1.IncludeObject
	out.Rows = make([]metav1.TableRow, 0, len(items))
	for i := range items {
		row, err := t.row(ctx, &items[i], opts, whole)
		if err != nil {
			return nil, err
		}
		out.Rows = append(out.Rows, row...)
	}
	return out, nil
}

// row renders one object. Its row has the whole object or its metadata alone.
func (t decodingTable) row(ctx context.Context, item *store.Undecoded, opts runtime.Object, whole bool) ([]metav1.TableRow, error) {
	obj, err := store.Decoded(item)
	if err != nil {
		return nil, err
	}
	out, err := t.TableConvertor.ConvertToTable(ctx, obj, opts)
	if err != nil {
		return nil, err
	}
	if !whole {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, err
		}
		for i := range out.Rows {
			out.Rows[i].Object.Object = meta.AsPartialObjectMetadata(m)
		}
	}
	return out.Rows, nil
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
