package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// chunk is how much of a list is written at once.
const chunk = 32 << 10

// Undecoded is an object of a list or a watch as the store has it. What a client gets that
// takes JSON differs from that by the resourceVersion alone. So it is made without
// decoding the object, at a twentieth of the time and with no memory but for its text.
// Whoever wants to look into the object decodes it first, with Decoded.
type Undecoded struct {
	store *Store
	rec   raftstore.Record
	turn  *turn // that the list has to take before its objects are decoded; nil in watches
}

var (
	_ runtime.Object            = (*Undecoded)(nil)
	_ metav1.ObjectMetaAccessor = (*Undecoded)(nil)
)

// UndecodedList is a list of objects as the store has them. The objects are read from the
// store as the list is encoded, so that a list of any length costs little memory.
type UndecodedList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []Undecoded
	store *Store
	turn  *turn
}

var _ runtime.Object = (*UndecodedList)(nil)

// form is what there is to know about the stored form of a kind.
type form struct {
	kind *kinds.Kind
	// head is how stored objects begin.
	head []byte
	// named is whether the objects of a list have their kind and apiVersion, as those of
	// custom resources have, but not those of the kinds of Kubernetes itself.
	named bool
	// buffers are used again and again, as long as they are small.
	buffers sync.Pool
}

// Undecoded returns the same store, whose watches deliver objects of type *Undecoded, and
// whose lists are read into what NewUndecodedList returns. It returns nil if the store
// keeps other values than NewCodec's.
func (s *Store) Undecoded() *Store {
	c, ok := s.codec.(*Codec)
	if !ok {
		return nil
	}
	gvk := c.kind.GVK
	u := *s
	u.form = &form{
		buffers: sync.Pool{New: func() any { return new(buffer) }},

		kind:  c.kind,
		head:  fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":{`, gvk.Kind, gvk.GroupVersion()),
		named: !strings.HasPrefix(reflect.TypeOf(c.kind.Object).Elem().PkgPath(), "k8s.io/api/"),
	}
	return &u
}

// NewUndecodedList returns an empty list of the store's objects.
func (s *Store) NewUndecodedList() *UndecodedList { return &UndecodedList{store: s} }

// appendItem appends an object as it is stored.
func (l *UndecodedList) appendItem(rec raftstore.Record) {
	l.turn.size += int64(rec.Size())
	l.Items = append(l.Items, Undecoded{store: l.store, rec: rec, turn: l.turn})
}

// Decoded returns obj, or what it is decoded if it is undecoded.
func Decoded(obj runtime.Object) (runtime.Object, error) {
	switch obj := obj.(type) {
	case *Undecoded:
		return obj.decode()
	case *UndecodedList:
		return obj.decode()
	}
	return obj, nil
}

func (o *Undecoded) decode() (runtime.Object, error) {
	obj := o.store.newFunc()
	return obj, o.decodeInto(obj)
}

func (o *Undecoded) decodeInto(obj runtime.Object) error {
	if err := o.turn.await(); err != nil {
		return err
	}
	if err := o.store.decodeObject(o.rec.Expand().Value, obj, o.rec.ModRevision); err != nil {
		return fmt.Errorf("decode %s: %w", o.rec.Key, err)
	}
	return nil
}

// GetObjectKind implements runtime.Object.
func (o *Undecoded) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object.
func (o *Undecoded) DeepCopyObject() runtime.Object {
	c := *o
	return &c
}

// GetObjectMeta implements metav1.ObjectMetaAccessor. It decodes the metadata alone, and
// returns nil if that fails.
func (o *Undecoded) GetObjectMeta() metav1.Object {
	if o.turn.await() != nil {
		return nil
	}
	b := o.store.form.takeBuffer()
	defer o.store.form.giveBuffer(b)
	var value []byte
	value, b.value = o.rec.ReadValue(b.value)
	var shape struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	var err error
	if text := o.store.form.metadataIn(value); text != nil {
		err = objects.DecodeShape(raftstore.Record{Value: text}, &shape.Metadata)
	} else {
		err = objects.DecodeShape(raftstore.Record{Value: value}, &shape)
	}
	if err != nil {
		return nil
	}
	shape.Metadata.ResourceVersion = strconv.FormatUint(o.rec.ModRevision, 10)
	return &shape.Metadata
}

// metadataIn returns the metadata of a value that is as this version stores it, else nil.
func (f *form) metadataIn(value []byte) []byte {
	if !bytes.HasPrefix(value, f.head) {
		return nil
	}
	text, depth := value[len(f.head)-1:], 0
	for i, inString := 0, false; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return text[:i+1]
			}
		}
	}
	return nil
}

// GetObjectKind implements runtime.Object.
func (l *UndecodedList) GetObjectKind() schema.ObjectKind { return &l.TypeMeta }

// DeepCopyObject implements runtime.Object.
func (l *UndecodedList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]Undecoded, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*Undecoded)
	}
	return &c
}

// decode returns a list of the kind's own type.
func (l *UndecodedList) decode() (runtime.Object, error) {
	out := l.store.form.kind.NewList()
	items, err := itemsOf(out)
	if err != nil {
		return nil, err
	}
	items.Set(reflect.MakeSlice(items.Type(), 0, len(l.Items)))
	for i := range l.Items {
		obj, err := l.Items[i].decode()
		if err != nil {
			return nil, err
		}
		if l.store.form.named {
			obj.GetObjectKind().SetGroupVersionKind(l.store.form.kind.GVK)
		}
		items.Set(reflect.Append(items, reflect.ValueOf(obj).Elem()))
	}
	list := out.(metav1.ListInterface)
	list.SetResourceVersion(l.ResourceVersion)
	list.SetContinue(l.Continue)
	list.SetRemainingItemCount(l.RemainingItemCount)
	return out, nil
}

// WriteJSON writes the object as clients get it.
func (o *Undecoded) WriteJSON(w io.Writer) error {
	b := o.store.form.takeBuffer()
	defer o.store.form.giveBuffer(b)
	if err := b.appendObject(o, true); err != nil {
		return err
	}
	return b.flush(w)
}

// WriteJSON writes the list as clients get it.
func (l *UndecodedList) WriteJSON(w io.Writer) error {
	b := l.store.form.takeBuffer()
	defer l.store.form.giveBuffer(b)
	// The library compresses an answer that begins with so short a write, if it gets long.
	if _, err := io.WriteString(w, "{"); err != nil {
		return err
	}
	gvk := l.store.form.kind.GVK
	meta, err := json.Marshal(l.ListMeta)
	if err != nil {
		return fmt.Errorf("encode the metadata of a list: %w", err)
	}
	b.text = fmt.Appendf(b.text, `"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, gvk.Kind+"List", gvk.GroupVersion().String(), meta)
	for i := range l.Items {
		if i > 0 {
			b.text = append(b.text, ',')
		}
		if err := b.appendObject(&l.Items[i], l.store.form.named); err != nil {
			return err
		}
		if len(b.text) >= chunk {
			if err := b.flush(w); err != nil {
				return err
			}
		}
	}
	b.text = append(b.text, "]}\n"...)
	return b.flush(w)
}

// buffer collects text.
type buffer struct{ text, value []byte }

func (f *form) takeBuffer() *buffer { return f.buffers.Get().(*buffer) }

func (f *form) giveBuffer(b *buffer) {
	if cap(b.text)+cap(b.value) > 8*chunk {
		return
	}
	b.text = b.text[:0]
	f.buffers.Put(b)
}

func (b *buffer) flush(w io.Writer) error {
	_, err := w.Write(b.text)
	b.text = b.text[:0]
	return err
}

// appendObject appends an object as clients get it, with its kind or without.
func (b *buffer) appendObject(o *Undecoded, kind bool) error {
	var value []byte
	value, b.value = o.rec.ReadValue(b.value)
	head := o.store.form.head
	rest, isUsual := bytes.CutPrefix(value, head)
	if !isUsual || len(rest) == 0 {
		return b.appendDecoded(o, kind)
	}
	if kind {
		b.text = append(b.text, head...)
	} else {
		b.text = append(b.text, `{"metadata":{`...)
	}
	b.text = append(b.text, `"resourceVersion":"`...)
	b.text = strconv.AppendUint(b.text, o.rec.ModRevision, 10)
	b.text = append(b.text, '"')
	if rest[0] != '}' {
		b.text = append(b.text, ',')
	}
	b.text = append(b.text, rest...)
	return nil
}

// appendDecoded appends an object that is not stored as this version stores objects: what
// another version has put into it, this one does not know.
func (b *buffer) appendDecoded(o *Undecoded, kind bool) error {
	obj, err := o.decode()
	if err != nil {
		return err
	}
	if kind {
		obj.GetObjectKind().SetGroupVersionKind(o.store.form.kind.GVK)
	}
	text, err := json.Marshal(obj)
	if err != nil {
		return fmt.Errorf("encode %s: %w", o.rec.Key, err)
	}
	b.text = append(b.text, text...)
	return nil
}
