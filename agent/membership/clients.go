package membership

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// IssueCredentials implements admin.Mesh.
func (a administration) IssueCredentials(ctx context.Context, request admin.CredentialsRequest, from string) (*admin.Credentials, error) {
	block, _ := pem.Decode([]byte(request.CSR))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fault.InField("csr", "is not a PEM certificate request")
	}
	key, err := identity.ParseCSR(block.Bytes)
	if err != nil {
		return nil, fault.InField("csr", "cannot be read: %w", err)
	}
	certificate, bundle, rec, err := a.signer.IssueClient(ctx, identity.ClientRequest{
		Key: key, User: request.User, TTL: request.TTL, Host: a.config.Name, From: from, Administrator: request.Administrator,
	})
	if mesh := a.FeatureLevel(); errors.Is(err, fault.NotFound) && mesh < level.Access {
		// The records decide; what this host believes of the level only chooses the words.
		return nil, fault.New(fault.Conflict, "a mesh at feature level %d knows no users but administrators, so %s is none of it", mesh, request.User).About(request.User).
			WithRemedy(fmt.Sprintf("raise the mesh's level to %d first: 'virtmesh level raise'; --admin makes the certificate an administrator's, who may do all", level.Access))
	}
	if err != nil {
		return nil, err
	}
	a.log.Info("certificate of a person signed", "user", rec.User, "administrator", rec.UserID == "", "by", rec.IssuedBy, "key", rec.KeyHash, "expires", rec.Expires, "renewedFrom", rec.RenewedFrom)
	return &admin.Credentials{
		Server: "https://" + a.config.MeshAddress(), CA: string(bundle), Certificate: string(certificate),
		Expires: rec.Expires, User: rec.User, KeyHash: rec.KeyHash, OfUser: rec.UserID != "",
	}, nil
}

// ListCertificates implements admin.Mesh.
func (a administration) ListCertificates(ctx context.Context) (*admin.Certificates, error) {
	clients := identity.NewClients(a.records)
	recs, err := clients.List(ctx)
	if err != nil {
		return nil, err
	}
	only, err := clients.ListedOnly(ctx, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	return &admin.Certificates{Certificates: certificatesOf(recs), UnlistedAccepted: !only}, nil
}

// RevokeCertificates implements admin.Mesh.
func (a administration) RevokeCertificates(ctx context.Context, which, by string) ([]admin.Certificate, error) {
	recs, err := identity.NewClients(a.records).Revoke(ctx, which, by)
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		a.log.Info("certificate revoked", "user", rec.User, "key", rec.KeyHash, "by", by)
	}
	return certificatesOf(recs), nil
}

// RefuseUnlistedCertificates implements admin.Mesh.
func (a administration) RefuseUnlistedCertificates(ctx context.Context, by string) error {
	if err := identity.NewClients(a.records).RefuseUnlisted(ctx, by); err != nil {
		return fmt.Errorf("revoke certificates: %w", err)
	}
	a.log.Info("certificates that are not listed are refused from now on", "by", by)
	return nil
}

func certificatesOf(recs []identity.ClientRecord) []admin.Certificate {
	list := make([]admin.Certificate, 0, len(recs))
	for _, rec := range recs {
		c := admin.Certificate{
			KeyHash: rec.KeyHash, User: rec.User, OfUser: rec.UserID != "", Host: rec.Host, Issued: rec.Issued, Expires: rec.Expires,
			RenewedFrom: rec.RenewedFrom, IssuedBy: rec.IssuedBy, Unlisted: rec.Unlisted,
		}
		if rec.Unreadable != nil {
			c.Unreadable = rec.Unreadable.Error()
		}
		if rec.Revoked != nil {
			c.Revoked, c.RevokedBy = &rec.Revoked.At, rec.Revoked.By
		}
		list = append(list, c)
	}
	return list
}
