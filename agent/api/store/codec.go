package store

import (
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/objects"
)

// Codec adapts an objects.Codec to the API server's registry. It does no conversion,
// because the served and the stored version of a kind have the same Go type.
type Codec struct {
	kind  *objects.Kind
	codec objects.Codec
}

var _ runtime.Codec = (*Codec)(nil)

// NewCodec returns the codec for objects of a kind.
func NewCodec(kind *objects.Kind) *Codec {
	return &Codec{kind: kind, codec: objects.CodecOf(kind)}
}

// Encode writes obj, which must be of the codec's kind, to w. It keeps the
// resourceVersion. The store has already cleared it in objects that are to be stored;
// but a dry run copies its answer through the codec, and the answer has a
// resourceVersion.
func (c *Codec) Encode(obj runtime.Object, w io.Writer) error {
	o, ok := obj.(objects.Object)
	if !ok {
		return fmt.Errorf("encode %s: a %T has no metadata", c.kind.GVK, obj)
	}
	data, err := c.codec.EncodeCopy(o)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// Identifier names the codec for caches of encoded objects.
func (c *Codec) Identifier() runtime.Identifier {
	return runtime.Identifier("stored:" + c.kind.GVK.String())
}

// Decode decodes data into into, after clearing it. The result has no apiVersion and
// kind, as the registry expects of its in-memory objects.
func (c *Codec) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	o, ok := into.(objects.Object)
	if !ok {
		return nil, nil, fmt.Errorf("decode %s: a %T has no metadata", c.kind.GVK, into)
	}
	if err := c.codec.Decode(data, o); err != nil {
		return nil, nil, err
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	gvk := c.kind.GVK
	return into, &gvk, nil
}
