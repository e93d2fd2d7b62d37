package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"virtmesh/agent/fault"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// The kinds of roles and bindings, as references name them.
const (
	kindRole        = "Role"
	kindClusterRole = "ClusterRole"
)

// userBinding is a RoleBinding, or a ClusterRoleBinding if it has no namespace.
type userBinding struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// RoleKind and Role name what it gives.
	RoleKind string `json:"roleKind"`
	Role     string `json:"role"`

	subjects []rbacv1.Subject
	// preconditions hold as long as it is what was read.
	preconditions metav1.Preconditions
}

// String returns what it is, for people.
func (b userBinding) String() string {
	if b.Namespace == "" {
		return "ClusterRoleBinding " + b.Name
	}
	return "RoleBinding " + b.Namespace + "/" + b.Name
}

// grants returns what it gives, as the end of a sentence.
func (b userBinding) grants() string {
	if b.Namespace == "" {
		return fmt.Sprintf("%s %s everywhere", b.RoleKind, b.Role)
	}
	return fmt.Sprintf("%s %s in the namespace %s", b.RoleKind, b.Role, b.Namespace)
}

// role returns what it gives, for a column.
func (b userBinding) role() string {
	if b.Namespace == "" {
		return b.Role
	}
	return b.Namespace + "/" + b.Role
}

// ownBindingPrefix begins the names of the bindings that 'user add' makes for a user, which
// 'user rm' removes. No name of a user has a colon.
func ownBindingPrefix(user string) string { return "virtmesh:user:" + user + ":" }

// names reports whether a binding gives its role to a user by name.
func (b userBinding) names(user string) bool {
	for _, s := range b.subjects {
		if s.Kind == rbacv1.UserKind && s.Name == user {
			return true
		}
	}
	return false
}

// isOwn reports whether 'user add' made a binding for a user, and nobody has added others to it.
func (b userBinding) isOwn(user string) bool {
	return strings.HasPrefix(b.Name, ownBindingPrefix(user)) && len(b.subjects) == 1 && b.names(user)
}

// wantedBinding returns the binding that flags ask for; nil if they ask for none.
func wantedBinding(user, role, clusterRole, namespace string) (*userBinding, error) {
	b := userBinding{Namespace: namespace, RoleKind: kindClusterRole, Role: clusterRole}
	switch {
	case role != "" && clusterRole != "":
		return nil, errors.New("give either --role or --cluster-role; repeat the command for the other one")
	case role != "" && namespace == "":
		return nil, errors.New("--role needs --namespace: a Role is one of a namespace; --cluster-role gives a ClusterRole")
	case role != "":
		b.RoleKind, b.Role = kindRole, role
	case clusterRole == "" && namespace != "":
		return nil, errors.New("--namespace needs --role or --cluster-role, the role that the user gets there")
	case clusterRole == "":
		return nil, nil
	}
	b.Name = ownBindingPrefix(user) + strings.ToLower(b.RoleKind) + ":" + b.Role
	return &b, nil
}

// bindings are the mesh's roles and bindings.
type bindings struct {
	conn *connection
	api  rbacclient.RbacV1Interface
}

func newBindings(conn *connection) (*bindings, error) {
	config := rest.CopyConfig(conn.rest)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	api, err := rbacclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the mesh: %w", err)
	}
	return &bindings{conn, api}, nil
}

// checkRole returns an error if there is no role as a binding would give.
func (b *bindings) checkRole(ctx context.Context, wanted userBinding) error {
	var err error
	if wanted.RoleKind == kindRole {
		_, err = b.api.Roles(wanted.Namespace).Get(ctx, wanted.Role, metav1.GetOptions{})
	} else {
		_, err = b.api.ClusterRoles().Get(ctx, wanted.Role, metav1.GetOptions{})
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	var status admin.Status
	if b.conn.mesh(ctx, http.MethodGet, statusPath, nil, &status) == nil && status.Level != nil && status.Level.Mesh < level.Access {
		return fault.New(fault.Conflict, "a mesh at feature level %d knows no users but administrators, and no roles", status.Level.Mesh).
			WithRemedy(fmt.Sprintf("raise the mesh's level to %d first: 'virtmesh level raise'", level.Access))
	}
	if wanted.RoleKind == kindRole {
		return fault.New(fault.NotFound, "there is no Role %s in the namespace %s", wanted.Role, wanted.Namespace).
			WithRemedy("'virtmesh get roles -n " + wanted.Namespace + "' lists them, and --cluster-role gives a ClusterRole there")
	}
	return fault.New(fault.NotFound, "there is no ClusterRole %s", wanted.Role).WithRemedy("'virtmesh get clusterroles' lists them")
}

// create makes a binding that gives a role to a user, and reports whether it was not there.
func (b *bindings) create(ctx context.Context, user string, wanted userBinding) (created bool, err error) {
	meta := metav1.ObjectMeta{Namespace: wanted.Namespace, Name: wanted.Name}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: wanted.RoleKind, Name: wanted.Role}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	options := metav1.CreateOptions{FieldManager: fieldManager}
	if wanted.Namespace == "" {
		_, err = b.api.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, options)
	} else {
		_, err = b.api.RoleBindings(wanted.Namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, options)
	}
	if !apierrors.IsAlreadyExists(err) {
		return err == nil, err
	}
	have, err := b.get(ctx, wanted)
	if err == nil && !(have.names(user) && have.RoleKind == wanted.RoleKind && have.Role == wanted.Role) {
		err = fault.New(fault.Conflict, "%s is there and does not give it", wanted).WithRemedy("delete it, and repeat the command")
	}
	return false, err
}

func (b *bindings) get(ctx context.Context, wanted userBinding) (userBinding, error) {
	if wanted.Namespace == "" {
		have, err := b.api.ClusterRoleBindings().Get(ctx, wanted.Name, metav1.GetOptions{})
		if err != nil {
			return userBinding{}, err
		}
		return bindingOf(have.ObjectMeta, have.RoleRef, have.Subjects), nil
	}
	have, err := b.api.RoleBindings(wanted.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return userBinding{}, err
	}
	return bindingOf(have.ObjectMeta, have.RoleRef, have.Subjects), nil
}

func bindingOf(meta metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject) userBinding {
	return userBinding{
		Namespace: meta.Namespace, Name: meta.Name, RoleKind: ref.Kind, Role: ref.Name, subjects: subjects,
		preconditions: metav1.Preconditions{UID: &meta.UID, ResourceVersion: &meta.ResourceVersion},
	}
}

// list returns all bindings, those without a namespace first.
func (b *bindings) list(ctx context.Context) ([]userBinding, error) {
	everywhere, err := b.api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list bindings: %w", err)
	}
	inNamespaces, err := b.api.RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list bindings: %w", err)
	}
	all := make([]userBinding, 0, len(everywhere.Items)+len(inNamespaces.Items))
	for _, item := range everywhere.Items {
		all = append(all, bindingOf(item.ObjectMeta, item.RoleRef, item.Subjects))
	}
	for _, item := range inNamespaces.Items {
		all = append(all, bindingOf(item.ObjectMeta, item.RoleRef, item.Subjects))
	}
	return all, nil
}

// byUser returns the bindings that name each user.
func (b *bindings) byUser(ctx context.Context) (map[string][]userBinding, error) {
	all, err := b.list(ctx)
	byUser := map[string][]userBinding{}
	for _, one := range all {
		seen := map[string]bool{}
		for _, s := range one.subjects {
			if s.Kind == rbacv1.UserKind && !seen[s.Name] {
				seen[s.Name], byUser[s.Name] = true, append(byUser[s.Name], one)
			}
		}
	}
	return byUser, err
}

// naming returns the bindings that name a user.
func (b *bindings) naming(ctx context.Context, user string) ([]userBinding, error) {
	byUser, err := b.byUser(ctx)
	return byUser[user], err
}

// namingBefore returns the bindings that name a user who was just added, without the one that he is
// about to get: those from before, of which whoever adds him may not know.
func (b *bindings) namingBefore(ctx context.Context, user string, wanted *userBinding) ([]userBinding, error) {
	named, err := b.naming(ctx, user)
	return slices.DeleteFunc(named, func(one userBinding) bool {
		return wanted != nil && one.Namespace == wanted.Namespace && one.Name == wanted.Name
	}), err
}

// removeOwn removes those bindings of a user that 'user add' made and that are as it made them,
// and returns them and the others.
func (b *bindings) removeOwn(ctx context.Context, user string, named []userBinding) (removed, left []userBinding, err error) {
	for _, one := range named {
		if !one.isOwn(user) {
			left = append(left, one)
			continue
		}
		options := metav1.DeleteOptions{Preconditions: &one.preconditions}
		if one.Namespace == "" {
			err = b.api.ClusterRoleBindings().Delete(ctx, one.Name, options)
		} else {
			err = b.api.RoleBindings(one.Namespace).Delete(ctx, one.Name, options)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return removed, left, fmt.Errorf("delete %s: %w", one, err)
		}
		removed = append(removed, one)
	}
	return removed, left, nil
}
