package membership

import (
	"context"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// AddUser implements admin.Mesh. Below level.Access it refuses: an earlier version takes
// everybody whose certificate is listed for an administrator.
func (a administration) AddUser(ctx context.Context, request admin.UserRequest, by string) (*admin.UserChange, error) {
	if mesh := a.FeatureLevel(); mesh < level.Access {
		return nil, fault.New(fault.Conflict, "a mesh at feature level %d knows no users but administrators", mesh).
			WithRemedy(fmt.Sprintf("raise the mesh's level to %d first: 'virtmesh level raise'", level.Access))
	}
	change, err := identity.NewUsers(a.records).Add(ctx, identity.UserRequest{Name: request.Name, Groups: request.Groups, Replace: request.ReplaceGroups, By: by})
	if change.Created || change.Changed {
		a.log.Info("user added", "user", change.User.Name, "groups", change.User.Groups, "by", by, "groupsReplaced", change.Changed, "certificatesEnded", len(change.Ended))
	}
	if err != nil {
		return nil, err
	}
	return &admin.UserChange{User: userOf(change.User, nil), Created: change.Created, GroupsReplaced: change.Changed, Ended: certificatesOf(change.Ended)}, nil
}

// ListUsers implements admin.Mesh.
func (a administration) ListUsers(ctx context.Context) ([]admin.User, error) {
	recs, err := identity.NewUsers(a.records).List(ctx)
	if err != nil {
		return nil, err
	}
	certificates, err := identity.NewClients(a.records).List(ctx)
	if err != nil {
		return nil, err
	}
	valid := map[string][]identity.ClientRecord{} // by the ID of the user
	for _, cert := range certificates {
		if cert.UserID != "" && cert.Revoked == nil && time.Now().Before(cert.Expires) {
			valid[cert.UserID] = append(valid[cert.UserID], cert)
		}
	}
	users := make([]admin.User, 0, len(recs))
	for _, rec := range recs {
		users = append(users, userOf(rec, valid[rec.ID]))
	}
	return users, nil
}

// RemoveUser implements admin.Mesh.
func (a administration) RemoveUser(ctx context.Context, name, by string) ([]admin.Certificate, error) {
	ended, err := identity.NewUsers(a.records).Remove(ctx, name, by)
	if err != nil {
		return nil, err
	}
	a.log.Info("user removed", "user", name, "by", by, "certificatesEnded", len(ended))
	return certificatesOf(ended), nil
}

func userOf(rec identity.UserRecord, valid []identity.ClientRecord) admin.User {
	user := admin.User{Name: rec.Name, Groups: rec.Groups, Created: rec.Created, CreatedBy: rec.CreatedBy, Certificates: certificatesOf(valid)}
	if rec.Unreadable != nil {
		user.Unreadable = rec.Unreadable.Error()
	}
	return user
}
