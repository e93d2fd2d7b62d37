package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/admin"
)

// fakeMesh is a mesh of one moment.
type fakeMesh struct {
	issues  *admin.Credentials // nil: some that cannot be read
	status  admin.Status
	tokens  []admin.Token
	revoked []string
	removed []string
	ttl     time.Duration
	csr     []byte
	asked   admin.CredentialsRequest
	// users are by name; userRequest is the last one, and userErr why it is refused.
	users       map[string]admin.User
	userRequest admin.UserRequest
	userErr     error
	// unreadable says that the only certificate is one whose record cannot be read.
	unreadable bool
	// unlistedBy is who refused certificates that are not listed.
	unlistedBy string
	// removedByForce is the force of the last removal.
	removedByForce bool
	// keptKeys says that the last removal left the keys as they are.
	keptKeys bool
	// mayLeave says that no instances run on the host; left counts its departures.
	mayLeave bool
	left     int

	removedBy string
	// removal is what is told of a removal, if it is set.
	removal   *admin.Removed
	removeErr error

	// gossip are the keys of gossip; rotatedBy is who had them replaced.
	gossip    admin.GossipKeys
	secrets   admin.SecretKeys
	rotatedBy string
	// ca is what the mesh says of its CA; caRotated is for how long the one before shall let
	// hosts in, rotateErr why it is not replaced.
	ca        admin.CAStatus
	caRotated time.Duration
	rotateErr error
}

var _ admin.Mesh = (*fakeMesh)(nil)

func (m *fakeMesh) Status(context.Context) (*admin.Status, error) { return &m.status, nil }

func (m *fakeMesh) GossipKeys(context.Context) (*admin.GossipKeys, error) { return &m.gossip, nil }

func (m *fakeMesh) SecretKeys(context.Context) (*admin.SecretKeys, error) { return &m.secrets, nil }

func (m *fakeMesh) RotateSecretKey(context.Context) error {
	m.secrets.Wanted = true
	return nil
}

func (m *fakeMesh) RotateGossipKey(_ context.Context, by string) error {
	m.rotatedBy, m.gossip.Generation = by, m.gossip.Generation+3
	return nil
}

func (m *fakeMesh) CA(context.Context) (*admin.CAStatus, error) { return &m.ca, nil }

func (m *fakeMesh) RotateCA(_ context.Context, by string, deadline time.Duration) error {
	m.rotatedBy, m.caRotated = by, deadline
	return m.rotateErr
}

func (m *fakeMesh) CreateToken(_ context.Context, ttl time.Duration) (*admin.Token, error) {
	m.ttl = ttl
	return &admin.Token{ID: "abc", Secret: "vm1.secret", Expires: time.Now().Add(ttl)}, nil
}

func (m *fakeMesh) ListTokens(context.Context) ([]admin.Token, error) { return m.tokens, nil }

func (m *fakeMesh) RevokeToken(_ context.Context, id string) error {
	if id == "gone" {
		return fmt.Errorf("token %s: %w", id, fault.NotFound)
	}
	m.revoked = append(m.revoked, id)
	return nil
}

func (m *fakeMesh) IssueCredentials(_ context.Context, r admin.CredentialsRequest, _ string) (*admin.Credentials, error) {
	m.csr, m.asked = []byte(r.CSR), r
	if m.issues != nil {
		return m.issues, nil
	}
	return &admin.Credentials{Server: "https://192.0.2.1:7443", CA: "the CA", Certificate: "the certificate"}, nil
}

func (m *fakeMesh) ListCertificates(context.Context) (*admin.Certificates, error) {
	at := time.Now()
	if m.unreadable {
		return &admin.Certificates{Certificates: []admin.Certificate{{KeyHash: strings.Repeat("0d", 32), Unreadable: "it is spoilt"}}}, nil
	}
	return &admin.Certificates{UnlistedAccepted: m.unlistedBy == "", Certificates: []admin.Certificate{
		{KeyHash: strings.Repeat("0a", 32), User: "alice", Host: "host1", Issued: at, Expires: at.Add(time.Hour)},
		{KeyHash: strings.Repeat("0b", 32), User: "bob", Issued: at, Expires: at.Add(-time.Hour)},
		{KeyHash: strings.Repeat("0c", 32), User: "carol", Issued: at, Expires: at.Add(time.Hour), Revoked: &at, RevokedBy: "root"},
	}}, nil
}

func (m *fakeMesh) RevokeCertificates(_ context.Context, which, _ string) ([]admin.Certificate, error) {
	switch which {
	case "alice":
		return []admin.Certificate{{KeyHash: strings.Repeat("0a", 32), User: "alice"}}, nil
	case "carol":
		return nil, nil
	case strings.Repeat("0c", 32):
		return []admin.Certificate{{KeyHash: which, User: "unlisted", Unlisted: true}}, nil
	}
	return nil, fault.New(fault.NotFound, "no certificate is of a user %q", which)
}

func (m *fakeMesh) RefuseUnlistedCertificates(_ context.Context, by string) error {
	m.unlistedBy = by
	return nil
}

func (m *fakeMesh) AddUser(_ context.Context, r admin.UserRequest, by string) (*admin.UserChange, error) {
	if m.userRequest = r; m.userErr != nil {
		return nil, m.userErr
	}
	have, found := m.users[r.Name]
	if !found {
		have = admin.User{Name: r.Name, Groups: r.Groups, CreatedBy: by, Created: time.Now()}
	}
	replaced := found && r.ReplaceGroups
	if replaced {
		have.Groups = r.Groups
	}
	if m.users == nil {
		m.users = map[string]admin.User{}
	}
	m.users[r.Name] = have
	return &admin.UserChange{User: have, Created: !found, GroupsReplaced: replaced}, nil
}

func (m *fakeMesh) ListUsers(context.Context) ([]admin.User, error) {
	return slices.SortedFunc(maps.Values(m.users), func(a, b admin.User) int { return strings.Compare(a.Name, b.Name) }), nil
}

func (m *fakeMesh) RemoveUser(_ context.Context, name, _ string) ([]admin.Certificate, error) {
	user, found := m.users[name]
	if !found {
		return nil, fault.New(fault.NotFound, "the mesh has no user %q", name).WithRemedy("'virtmesh user ls' lists them")
	}
	delete(m.users, name)
	return user.Certificates, nil
}

func (m *fakeMesh) Leave(context.Context) error {
	if m.mayLeave {
		m.left++
		return nil
	}
	return fault.New(fault.Conflict, "2 instances run on host1").WithRemedy("stop them first")
}

func (m *fakeMesh) RemoveHost(_ context.Context, r admin.Removal) (*admin.Removed, error) {
	m.removed = append(m.removed, r.Host)
	m.removedBy, m.removedByForce, m.keptKeys = r.By, r.Force, r.KeepKeys
	if m.removal != nil {
		return m.removal, m.removeErr
	}
	return &admin.Removed{KeysReplaced: !r.KeepKeys, KeepsKeys: r.Host == "host3", Tokens: []string{"abc"}, Secrets: []string{"default/password"}}, m.removeErr
}

func (m *fakeMesh) RaiseLevel(_ context.Context, to uint32) error {
	if to > m.status.Level.Reachable {
		return fault.New(fault.Conflict, "host2 (version 2.0.0) knows up to %d", m.status.Level.Reachable)
	}
	m.status.Level.Mesh, m.status.Level.Brings = to, nil
	return nil
}
