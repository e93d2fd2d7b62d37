package membership

import (
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// A host has certificates of administrators signed only as the list has them: so that they can
// be seen and revoked, for nobody but administrators, and not for longer than others get them.
func TestAHostCannotMakeInvisibleAdministrators(t *testing.T) {
	t.Parallel()
	_, second, _ := withdrawn(t)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request, err := identity.NewClientSigning(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := identity.PinOfKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(record *identity.ClientRecord) (*x509.Certificate, error) {
		t.Helper()
		if record != nil {
			value, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := second.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.ClientsPrefix + identity.KeyHash(pin), Value: value}}}); err != nil {
				t.Fatal(err)
			}
		}
		issued, err := second.voters.SignClient(t.Context(), request)
		if err != nil {
			return nil, err
		}
		certs, err := identity.ParseCertificates(issued.Chain)
		if err != nil {
			t.Fatal(err)
		}
		return certs[0], nil
	}
	now := time.Now()
	if _, err := sign(nil); err == nil || !strings.Contains(err.Error(), "has not listed") {
		t.Errorf("without a record: %v", err)
	}
	for name, c := range map[string]struct {
		record identity.ClientRecord
		says   string
	}{
		"revoked":                    {identity.ClientRecord{User: "eve", Expires: now.Add(time.Hour), Revoked: &identity.Revocation{By: "root", At: now}}, "was revoked by root"},
		"of a host":                  {identity.ClientRecord{User: "system:node:host1", Expires: now.Add(time.Hour)}, "cannot be the name"},
		"ended":                      {identity.ClientRecord{User: "eve", Expires: now.Add(-time.Hour)}, "would have ended"},
		"of a chain without a first": {identity.ClientRecord{User: "eve", Expires: now.Add(time.Hour), Root: strings.Repeat("0a", 32)}, "has not listed"},
		"of a chain in a circle":     {identity.ClientRecord{User: "eve", Expires: now.Add(time.Hour), Root: identity.KeyHash(pin)}, "has not listed"},
	} {
		if _, err := sign(&c.record); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("a record %s: %v", name, err)
		}
	}
	cert, err := sign(&identity.ClientRecord{User: "eve", Expires: now.Add(365 * 24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "eve" || !slices.Equal(cert.Subject.Organization, []string{identity.AdminOrganization}) || cert.NotAfter.After(time.Now().Add(identity.MaxAdminLifetime)) {
		t.Errorf("signed for %s until %s", cert.Subject, cert.NotAfter)
	}
}
