package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// appendOutcome encodes o for the replica that sent the request.
func appendOutcome(b []byte, o *outcome) []byte {
	b = append(b, byte(o.kind))
	b = binary.AppendUvarint(b, o.index)
	b = binary.AppendUvarint(b, o.seq)
	b = binary.AppendUvarint(b, o.revision)
	b = binary.AppendUvarint(b, uint64(o.ops))
	switch o.kind {
	case outcomeConflict:
		c := o.conflict
		b = appendString(b, c.Key)
		b = binary.AppendUvarint(b, c.Want)
		if c.Current == nil {
			return append(b, 0)
		}
		b = append(b, 1)
		b = binary.AppendUvarint(b, c.Current.CreateRevision)
		b = binary.AppendUvarint(b, c.Current.ModRevision)
		b = appendBytes(b, c.Current.Value)
	case outcomeRefused:
		b = appendString(b, o.constraint.Name)
		b = binary.AppendUvarint(b, uint64(o.constraint.Version))
		b = appendString(b, o.constraint.Reason)
	}
	return b
}

func decodeOutcome(b []byte) (outcome, error) {
	r := &reader{b: b}
	o := outcome{
		kind: outcomeKind(r.byte()), index: r.uvarint(), seq: r.uvarint(),
		revision: r.uvarint(), ops: uint32(r.uvarint()),
	}
	switch o.kind {
	case outcomeConflict:
		o.conflict = &ConflictError{Key: r.string(), Want: r.uvarint()}
		if r.byte() == 1 {
			o.conflict.Current = &Record{
				Key: o.conflict.Key, CreateRevision: r.uvarint(), ModRevision: r.uvarint(), Value: r.bytes(),
			}
		}
	case outcomeRefused:
		o.constraint = &ConstraintError{Name: r.string(), Version: uint32(r.uvarint()), Reason: r.string()}
	}
	if r.err != nil || o.ops > MaxTxnOps {
		return outcome{}, fmt.Errorf("decode outcome: %w", errDecode)
	}
	return o, nil
}

// statusOf returns the status that encodes an error on the wire; errorOf is its
// inverse.
func statusOf(err error) status {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, errUnsettled):
		return statusUnsettled
	case errors.Is(err, ErrInvalidTxn):
		return statusInvalid
	case errors.Is(err, ErrForbidden):
		return statusForbidden
	case errors.Is(err, ErrTooLarge):
		return statusTooLarge
	case errors.Is(err, ErrUnknownConstraint):
		return statusUnknownConstraint
	case errors.Is(err, errNotLeader):
		return statusNotLeader
	case errors.Is(err, ErrTooNew):
		return statusTooNew
	case errors.Is(err, ErrFeatureLevel):
		return statusFeatureLevel
	case errors.Is(err, ErrHeldUp):
		return statusHeldUp
	default:
		return statusFailed
	}
}

// remoteError is an error that another replica returned. It wraps the error of this
// package that the status stands for.
type remoteError struct {
	class error
	text  string
}

// Error implements error.
func (e *remoteError) Error() string { return e.text }

// Unwrap returns the error that the status stands for.
func (e *remoteError) Unwrap() error { return e.class }

func errorOf(s status, payload []byte) error {
	classes := map[status]error{
		statusUnsettled: errUnsettled, statusInvalid: ErrInvalidTxn, statusTooLarge: ErrTooLarge,
		statusUnknownConstraint: ErrUnknownConstraint, statusFeatureLevel: ErrFeatureLevel, statusHeldUp: ErrHeldUp, statusTooNew: ErrTooNew,
		statusForbidden: ErrForbidden,
		// The replica is halted or failing; a retry may reach another one.
		statusNotLeader: errNotLeader, statusFailed: errNotLeader,
	}
	class, ok := classes[s]
	if !ok {
		// A later version may answer so. Only this is safe to conclude: a retry must not
		// take the request for one that was not carried out.
		class = errUnsettled
	}
	return &remoteError{class: class, text: string(payload)}
}
