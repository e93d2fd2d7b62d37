package store

import (
	"encoding/binary"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
)

// protobufChunk is how much encoded protobuf is kept in one piece.
const protobufChunk = 256 << 10

// Field tags of the messages that a list is made of, as k8s.io/apimachinery defines them:
// the envelope of an answer, its type, and what every list has.
const (
	envelopeType, envelopeRaw, envelopeEncoding, envelopeContentType = 1<<3 | 2, 2<<3 | 2, 3<<3 | 2, 4<<3 | 2
	typeVersion, typeKind                                            = 1<<3 | 2, 2<<3 | 2
	listMetadata, listItems                                          = 1<<3 | 2, 2<<3 | 2
)

// protobufObject is an object that can be encoded as protobuf.
type protobufObject interface {
	runtime.Object
	Size() int
	MarshalToSizedBuffer(into []byte) (int, error)
}

// WriteProtobuf writes the list as clients get it that ask for protobuf. The length of the
// whole comes before the objects, so it keeps them all, but encoded, which takes a fifth
// of what decoded objects do. ok is false if the kind has no such form; then nothing is
// written.
func (l *UndecodedList) WriteProtobuf(w io.Writer) (ok bool, err error) {
	obj, ok := l.store.newFunc().(protobufObject)
	if !ok {
		return false, nil
	}
	meta, err := l.ListMeta.Marshal()
	if err != nil {
		return true, fmt.Errorf("encode the metadata of a list: %w", err)
	}
	pieces := [][]byte{appendField(nil, listMetadata, meta)}
	total := len(pieces[0])
	for i := range l.Items {
		// The object before it is overwritten.
		if err := l.Items[i].decodeInto(obj); err != nil {
			return true, err
		}
		size := obj.Size()
		piece := pieces[len(pieces)-1]
		if need := 1 + binary.MaxVarintLen64 + size; cap(piece)-len(piece) < need {
			piece = make([]byte, 0, max(need, protobufChunk))
			pieces = append(pieces, piece)
		}
		before := len(piece)
		piece = binary.AppendUvarint(append(piece, listItems), uint64(size))
		piece = piece[:len(piece)+size]
		if _, err := obj.MarshalToSizedBuffer(piece[len(piece)-size:]); err != nil {
			return true, fmt.Errorf("encode %s: %w", l.Items[i].rec.Key, err)
		}
		total += len(piece) - before
		pieces[len(pieces)-1] = piece
	}
	return true, l.writeEnvelope(w, pieces, total)
}

// writeEnvelope writes the pieces of an encoded list, which are total bytes long.
func (l *UndecodedList) writeEnvelope(w io.Writer, pieces [][]byte, total int) error {
	gvk := l.store.form.kind.GVK
	kind := appendField(nil, typeVersion, []byte(gvk.GroupVersion().String()))
	kind = appendField(kind, typeKind, []byte(gvk.Kind+"List"))
	head := appendField(nil, envelopeType, kind)
	head = binary.AppendUvarint(append(head, envelopeRaw), uint64(total))
	// What begins with so short a write is compressed by the library, if it gets long.
	for _, text := range append([][]byte{[]byte("k8s\x00"), head}, pieces...) {
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	_, err := w.Write([]byte{envelopeEncoding, 0, envelopeContentType, 0})
	return err
}

// appendField appends a field of bytes.
func appendField(to []byte, tag byte, value []byte) []byte {
	return append(binary.AppendUvarint(append(to, tag), uint64(len(value))), value...)
}
