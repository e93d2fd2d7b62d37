package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/raftstore"
)

// ReadCARecord reads the mesh's CA. It returns ErrNotSeeded as long as the store does not hold it.
func ReadCARecord(ctx context.Context, store Store, opts raftstore.ReadOptions) (CARecord, error) {
	rec, _, err := readCA(ctx, store, opts)
	return rec, err
}

// WantCA begins the replacement of the CA by the operation with a UID. It does nothing if that
// has begun. It fails while a new CA signs that another operation has made: that one is to be
// ended first, with ReplaceCA.
func WantCA(ctx context.Context, store Store, rotation string) error {
	return changeCA(ctx, store, func(rec *CARecord) (bool, error) { return rec.want(rotation) })
}

// WantAnotherCA has the leader make another next CA instead of one that hosts trust already and
// that has signed nothing, because its key is lost. It does nothing if that one is not the next
// CA any more.
func WantAnotherCA(ctx context.Context, store Store, rotation string, lost Pin) error {
	return changeCA(ctx, store, func(rec *CARecord) (bool, error) { return rec.wantAnother(rotation, lost) })
}

// NoteNextCA notes the CA that will sign (PEM), and the same signed by the present one, for a
// rotation that waits for it. It does nothing if another one than before (PEM) is noted: another
// leader was faster.
func NoteNextCA(ctx context.Context, store Store, rotation string, before, next, successor []byte) error {
	return changeCA(ctx, store, func(rec *CARecord) (bool, error) {
		if err := rec.mustBe(rotation); err != nil || !slices.Equal(rec.Next, before) {
			return false, err
		}
		return rec.noteNext(next, successor)
	})
}

// GiveCA lets the hosts trust the next CA as well. The caller makes sure that every voter has
// its key. It does nothing if that was done, and fails if the next CA is not the one with the
// pin.
func GiveCA(ctx context.Context, store Store, rotation string, next Pin) error {
	return changeCA(ctx, store, func(rec *CARecord) (bool, error) {
		if err := rec.mustBe(rotation); err != nil {
			return false, err
		}
		if pin, ok := rec.NextCA(); rec.Stage == CAWanted && (!ok || pin != next) {
			return false, errors.New("another CA has become the next one")
		}
		return rec.give(rotation)
	})
}

// SignWithNextCA makes the next CA the one that signs. The caller makes sure that the hosts
// trust it and that its key is safe, as long as some conditions hold. It does nothing if that
// was done.
func SignWithNextCA(ctx context.Context, store Store, rotation string, conditions ...raftstore.Condition) error {
	return changeCA(ctx, store, func(rec *CARecord) (bool, error) { return rec.sign(rotation, time.Now()) }, conditions...)
}

// ReplaceCA ends the trust in the CA of before, but for what a former CA is good for until a
// time. The caller makes sure that the hosts have certificates of the new one. It does nothing
// if that was done.
func ReplaceCA(ctx context.Context, store Store, rotation string, until time.Time) error {
	return changeCA(ctx, store, func(rec *CARecord) (bool, error) { return rec.replace(rotation, until) })
}

// changeCA changes the record, if some conditions hold. change reports whether there is anything
// to write.
func changeCA(ctx context.Context, store Store, change func(*CARecord) (bool, error), conditions ...raftstore.Condition) error {
	rec, stored, err := readCA(ctx, store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	changed, err := change(&rec)
	if err != nil || !changed {
		return err
	}
	rec.Generation++
	op, err := rewriteOp(stored, rec)
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: append(conditions, raftstore.Condition{Key: KeyCA, ModRevision: stored.ModRevision}), Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("change the mesh's CA: %w", err)
	}
	return nil
}

// successorLifetime is for how long a CA is signed by the one before it: longer than any time
// for which a former CA is good for anything.
const successorLifetime = 90 * 24 * time.Hour

// NewSuccessor makes the CA that is to sign after this one, and returns it together with its
// certificate as this one signs it, PEM. By that certificate hosts know that the CA was made
// with the key of the present one, and clients that know only the present one verify servers. The
// next CA's own certificate names the present one, see vouchedFormer.
func (c *CA) NewSuccessor(meshID string) (next *CA, successor []byte, err error) {
	if err := c.checkClock(); err != nil {
		return nil, nil, err
	}
	if next, err = newCA(meshID, predecessorUnit(c.Pin())); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		RawSubject: next.cert.RawSubject, SubjectKeyId: next.cert.SubjectKeyId,
		NotBefore: next.cert.NotBefore, NotAfter: now.Add(successorLifetime),
		// No bound of the path length: the CA after the next one stands below it, too.
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if tmpl.NotBefore.Before(c.cert.NotBefore) {
		tmpl.NotBefore = c.cert.NotBefore
	}
	cert, err := signCertificate(tmpl, c.cert, &next.key.PublicKey, c.key)
	if err != nil {
		return nil, nil, fmt.Errorf("successor of the mesh's CA: %w", err)
	}
	return next, EncodeCertificates(cert), nil
}

// MadeAt returns when a CA was made, of which NewCA sets the beginning back.
func MadeAt(ca *x509.Certificate) time.Time { return ca.NotBefore.Add(maxBackdate) }
