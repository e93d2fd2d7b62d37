package store

import (
	"encoding/json"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
)

// Codec writes objects of one kind the way they are stored: plain JSON with
// apiVersion and kind. It does no conversion, because the served and the stored
// version of a kind share one Go type.
type Codec struct {
	gvk schema.GroupVersionKind
}

var _ runtime.Codec = (*Codec)(nil)

// NewCodec returns the codec for objects of kind gvk.
func NewCodec(gvk schema.GroupVersionKind) *Codec { return &Codec{gvk: gvk} }

// Encode writes obj, which must be of the codec's kind, to w.
func (c *Codec) Encode(obj runtime.Object, w io.Writer) error {
	kind := obj.GetObjectKind()
	was := kind.GroupVersionKind()
	kind.SetGroupVersionKind(c.gvk)
	data, err := json.Marshal(obj)
	kind.SetGroupVersionKind(was)
	if err != nil {
		return fmt.Errorf("encode %s: %w", c.gvk, err)
	}
	_, err = w.Write(data)
	return err
}

// Identifier names the codec for caches of encoded objects.
func (c *Codec) Identifier() runtime.Identifier {
	return runtime.Identifier("stored:" + c.gvk.String())
}

// Decode reads data into into, which is emptied first and comes back without
// apiVersion and kind, as the registry expects of its in-memory objects.
func (c *Codec) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if err := runtime.SetZeroValue(into); err != nil {
		return nil, nil, err
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, into); err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", c.gvk, err)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	gvk := c.gvk
	return into, &gvk, nil
}
