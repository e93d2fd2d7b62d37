package membership

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/gossip"
)

// RotateCA implements admin.Mesh. It creates an operation that replaces the CA, or finds the one
// in progress, and waits for its end. The operation continues if the caller stops waiting.
func (a administration) RotateCA(ctx context.Context, by string, deadline time.Duration) error {
	asking, cancel := context.WithTimeout(ctx, admin.Patience)
	defer cancel()
	if err := a.mustReplaceCA(asking); err != nil {
		return err
	}
	key, err := requestOperation(asking, a.store, "rotate-ca", meshv1alpha1.OperationSpec{
		Type: meshv1alpha1.RotateCA, Target: meshv1alpha1.CA, DeadlineSeconds: int64(deadline / time.Second),
		RequestedBy: by + " through " + a.config.Name,
	})
	if err != nil {
		return fmt.Errorf("ask for another CA: %w", err)
	}
	return awaitOperation(ctx, a.store, key)
}

// CA implements admin.Mesh, by this host's copy of the state and by what it hears.
func (a administration) CA(ctx context.Context) (*admin.CAStatus, error) {
	rec, err := identity.ReadCARecord(ctx, a.Member.store, localRead)
	if err != nil {
		return nil, fmt.Errorf("read the mesh's CA: %w", err)
	}
	status := &admin.CAStatus{Stage: string(rec.Stage), KeyInState: len(rec.Key) > 0}
	if status.Signing, err = describeCA(rec.Certificate); err != nil {
		return nil, err
	}
	if len(rec.Next) > 0 {
		next, err := describeCA(rec.Next)
		if err != nil {
			return nil, err
		}
		status.Next = &next
	}
	signer, trust := rec.InUse()[0].String(), identity.TrustFingerprint(rec.Bundle)
	status.Have, status.Waiting, status.Off = a.peers.byFacts(func(f gossip.Facts) bool { return f.Trust == trust && f.SignedBy == signer })
	if status.Operation, err = a.rotationNow(ctx); err != nil {
		return nil, err
	}
	status.Former, err = a.formerCAs(ctx, &rec)
	return status, err
}

// rotationNow returns the name of the operation that replaces the CA now; empty if none does.
func (a administration) rotationNow(ctx context.Context) (string, error) {
	all, _, err := objects.List[*meshv1alpha1.Operation](ctx, a.store, "", localRead)
	if err != nil {
		return "", fmt.Errorf("list operations: %w", err)
	}
	for _, op := range all {
		replaces := op.Spec.Type == meshv1alpha1.RotateCA || op.Spec.ReplaceCA
		if replaces && !op.Status.Phase.Final() {
			return op.Name, nil
		}
	}
	return "", nil
}

// formerCAs returns the former CAs that are good for anything still, each with the certificates
// of people from the time when it signed.
func (a administration) formerCAs(ctx context.Context, rec *identity.CARecord) ([]admin.FormerCA, error) {
	recorded, vouches := rec.Former, rec.Vouches()
	var all []admin.FormerCA
	var listed []admin.Certificate
	for i, former := range recorded {
		if !time.Now().Before(former.Until) {
			continue
		}
		certificate, err := describeCA(former.Certificate)
		if err != nil {
			return nil, err
		}
		if listed == nil {
			known, err := a.ListCertificates(ctx)
			if err != nil {
				return nil, err
			}
			listed = known.Certificates
		}
		entry := admin.FormerCA{CACertificate: certificate, Vouched: vouches[i], Until: former.Until}
		var began time.Time
		if i+1 < len(recorded) {
			began = recorded[i+1].Ended
		}
		for _, cert := range listed {
			open := cert.Revoked == nil && time.Now().Before(cert.Expires)
			if open && cert.Issued.Before(former.Ended) && !cert.Issued.Before(began) {
				entry.Certificates = append(entry.Certificates, cert)
			}
		}
		all = append(all, entry)
	}
	return all, nil
}

// describeCA returns what people are told of a CA certificate, PEM.
func describeCA(data []byte) (admin.CACertificate, error) {
	certs, err := identity.ParseCertificates(data)
	if err != nil {
		return admin.CACertificate{}, fmt.Errorf("read %s: %w", identity.KeyCA, err)
	}
	pin := identity.PinOf(certs[0])
	return admin.CACertificate{
		Fingerprint: hex.EncodeToString(pin[:]), Subject: certs[0].Subject.CommonName,
		Made: identity.MadeAt(certs[0]), Expires: certs[0].NotAfter,
	}, nil
}

// whyCAStays says why the mesh's CA cannot be replaced as things are; empty if it can.
func (m *Member) whyCAStays(ctx context.Context) string {
	if err := m.mustReplaceCA(ctx); err != nil {
		return fault.Of(err).Error()
	}
	return ""
}
