package membership

import (
	"context"
	"errors"
	"fmt"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
)

// Duties are the tasks of a host for the mesh, which it must hand over before it
// leaves.
type Duties interface {
	// Pause withdraws the host's capacity until Resume.
	Pause(ctx context.Context) error
	Resume()
	// Bury finishes the deletion of volume claims whose volumes were on the disks of
	// another host that is gone for good.
	Bury(ctx context.Context, host string) error
}

// administration implements the mesh's administration API.
type administration struct {
	*Member
	store  objects.Store
	duties Duties
	// tell writes an event about an instance that ends with its host.
	tell func(vmi *kubevirtv1.VirtualMachineInstance, reason, message string)
}

var _ admin.Mesh = administration{}

// Administration returns the implementation of the mesh's administration API on this
// host. store holds the mesh's objects, duties are this host's, and tell writes an
// event about an instance that ends with its host.
func (m *Member) Administration(store objects.Store, duties Duties, tell func(vmi *kubevirtv1.VirtualMachineInstance, reason, message string)) admin.Mesh {
	return administration{Member: m, store: store, duties: duties, tell: tell}
}

// CreateToken implements admin.Mesh.
func (a administration) CreateToken(ctx context.Context, ttl time.Duration) (*admin.Token, error) {
	token, record, err := identity.NewTokens(a.records).Create(ctx, ttl)
	if err != nil {
		return nil, fmt.Errorf("create a token: %w", err)
	}
	return &admin.Token{ID: token.ID, Secret: token.Encode(), Expires: record.Expires}, nil
}

// ListTokens implements admin.Mesh.
func (a administration) ListTokens(ctx context.Context) ([]admin.Token, error) {
	records, err := identity.NewTokens(a.records).List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	tokens := make([]admin.Token, 0, len(records))
	for _, record := range records {
		token := admin.Token{ID: record.ID, Expires: record.Expires}
		if record.UsedBy != nil {
			token.UsedBy = record.UsedBy.Host
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// RevokeToken implements admin.Mesh.
func (a administration) RevokeToken(ctx context.Context, id string) error {
	err := identity.NewTokens(a.records).Revoke(ctx, id)
	if errors.Is(err, fault.TokenInvalid) {
		return fmt.Errorf("token %s: %w", id, fault.NotFound)
	}
	return err
}

// newRemoval returns the removal of a host.
func (a administration) newRemoval(name string) removal {
	return removal{
		host: name, store: a.store, hosts: identity.NewHosts(a.records), replicas: a.Member.store,
		letGo: a.duties.Bury, tell: a.tell,
	}
}
