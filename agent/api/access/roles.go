package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"virtmesh/agent/objects"
)

// patience is how long a decision waits for the first copy of the roles. After a start the local
// replica delivers it within moments.
const patience = 5 * time.Second

// errUnread is returned while the host has not read the roles yet.
var errUnread = errors.New("this host has not read the roles of the mesh yet")

// Config says where Roles come from.
type Config struct {
	// Cache delivers the roles and bindings of the local replica. Required.
	Cache *objects.Cache
	// Level returns the feature level of the mesh. Below level.Access nobody has rights by
	// roles. Required.
	Level func() uint32
}

// Roles knows which rules apply to whom. Its methods may be called concurrently.
type Roles struct {
	level func() uint32
	// waits wait for the first copy of each of the four kinds; synced is true after them.
	waits  []func(context.Context) error
	synced atomic.Bool

	mu sync.RWMutex
	// rules are those of Roles and, without a namespace, of ClusterRoles.
	rules map[objects.Key][]rbacv1.PolicyRule
	// bindings are the RoleBindings and, without a namespace, the ClusterRoleBindings.
	bindings map[objects.Key]*binding
	// grants are what the bindings of a namespace give, by who gets it, ordered by the names of the
	// bindings. Those of ClusterRoleBindings have no namespace.
	grants map[string]map[holder][]grant
}

// binding is a RoleBinding or a ClusterRoleBinding.
type binding struct {
	key      objects.Key
	role     rbacv1.RoleRef
	subjects []rbacv1.Subject
}

// holder is a user or a group by name. A service account is the user that its tokens name.
type holder struct {
	group bool
	name  string
}

// grant is what a binding gives one of its subjects.
type grant struct {
	binding *binding
	subject rbacv1.Subject
}

// New returns Roles, which follow the cache while it runs.
func New(config Config) *Roles {
	r := &Roles{
		level: config.Level,
		rules: map[objects.Key][]rbacv1.PolicyRule{}, bindings: map[objects.Key]*binding{}, grants: map[string]map[holder][]grant{},
	}
	follow(r, config.Cache, func(key objects.Key, o *rbacv1.ClusterRole) { r.setRules(key, o.Rules) }, r.dropRules)
	follow(r, config.Cache, func(key objects.Key, o *rbacv1.Role) { r.setRules(key, o.Rules) }, r.dropRules)
	follow(r, config.Cache, func(key objects.Key, o *rbacv1.ClusterRoleBinding) {
		r.setBinding(binding{key, o.RoleRef, o.Subjects})
	}, r.dropBinding)
	follow(r, config.Cache, func(key objects.Key, o *rbacv1.RoleBinding) {
		r.setBinding(binding{key, o.RoleRef, o.Subjects})
	}, r.dropBinding)
	return r
}

// follow passes the objects of a kind to set when they are made or changed, and their keys to
// drop when they are deleted.
func follow[T objects.Object](r *Roles, cache *objects.Cache, set func(objects.Key, T), drop func(objects.Key)) {
	informer := objects.For[T](cache)
	informer.AddHandler(func(c objects.Change[T]) {
		r.mu.Lock()
		defer r.mu.Unlock()
		drop(c.Key)
		if !c.IsDelete() {
			set(c.Key, c.New)
		}
	})
	r.waits = append(r.waits, informer.WaitForSync)
}

// AwaitSync waits until the roles and bindings were read once, or ctx ends. The error says that
// they were not.
func (r *Roles) AwaitSync(ctx context.Context) error {
	if r.synced.Load() {
		return nil
	}
	for _, wait := range r.waits {
		if err := wait(ctx); err != nil {
			return fmt.Errorf("%w: %w", errUnread, err)
		}
	}
	r.synced.Store(true)
	return nil
}

// setRules notes a role. The caller holds r.mu, as that of the next three.
func (r *Roles) setRules(key objects.Key, rules []rbacv1.PolicyRule) { r.rules[key] = rules }

func (r *Roles) dropRules(key objects.Key) { delete(r.rules, key) }

func (r *Roles) setBinding(b binding) {
	r.bindings[b.key] = &b
	scope := r.grants[b.key.Namespace]
	if scope == nil {
		scope = map[holder][]grant{}
		r.grants[b.key.Namespace] = scope
	}
	for h, subject := range b.holders() {
		at, _ := slices.BinarySearchFunc(scope[h], b.key.Name, compareGrant)
		scope[h] = slices.Insert(scope[h], at, grant{&b, subject})
	}
}

func (r *Roles) dropBinding(key objects.Key) {
	b, ok := r.bindings[key]
	if !ok {
		return
	}
	delete(r.bindings, key)
	scope := r.grants[key.Namespace]
	for h := range b.holders() {
		if at, found := slices.BinarySearchFunc(scope[h], key.Name, compareGrant); found {
			scope[h] = slices.Delete(scope[h], at, at+1)
		}
		if len(scope[h]) == 0 {
			delete(scope, h)
		}
	}
	if len(scope) == 0 {
		delete(r.grants, key.Namespace)
	}
}

func compareGrant(g grant, name string) int { return cmp.Compare(g.binding.key.Name, name) }

// holders returns who gets something by a binding, each with the first subject that names him.
// A service account without a namespace is that of the binding's own.
func (b *binding) holders() map[holder]rbacv1.Subject {
	out := make(map[holder]rbacv1.Subject, len(b.subjects))
	for _, s := range b.subjects {
		h := holder{name: s.Name}
		switch s.Kind {
		case rbacv1.UserKind:
		case rbacv1.GroupKind:
			h.group = true
		case rbacv1.ServiceAccountKind:
			s.Namespace = cmp.Or(s.Namespace, b.key.Namespace)
			if s.Namespace == "" {
				continue
			}
			h.name = serviceaccount.MakeUsername(s.Namespace, s.Name)
		default:
			continue
		}
		if _, named := out[h]; !named {
			out[h] = s
		}
	}
	return out
}

// visit calls see with each rule that applies to a user in a namespace, or in all if it is empty,
// and with what gives it, until see returns false. A rule that applies for several reasons comes
// several times. The errors are those of bindings whose roles do not exist.
func (r *Roles) visit(u user.Info, namespace string, see func(grant, *rbacv1.PolicyRule) bool) []error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var errs []error
	scopes := []string{"", namespace}
	if namespace == "" {
		scopes = scopes[:1]
	}
	for _, scope := range scopes {
		grants := r.grants[scope]
		for h := range holdersOf(u) {
			for _, g := range grants[h] {
				rules, err := r.referred(g.binding.role, scope)
				if err != nil {
					errs = append(errs, err)
				}
				for i := range rules {
					if !see(g, &rules[i]) {
						return errs
					}
				}
			}
		}
	}
	return errs
}

// holdersOf yields as whom a user gets rights.
func holdersOf(u user.Info) func(yield func(holder) bool) {
	return func(yield func(holder) bool) {
		if !yield(holder{name: u.GetName()}) {
			return
		}
		for _, group := range u.GetGroups() {
			if !yield(holder{group: true, name: group}) {
				return
			}
		}
	}
}

// referred returns the rules of the role that a binding in a namespace refers to. The caller
// holds r.mu.
func (r *Roles) referred(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	key := objects.Key{Name: ref.Name}
	resource := "clusterrole" // in the singular, as Kubernetes says it
	if ref.Kind == "Role" {
		key.Namespace, resource = namespace, "role"
	}
	rules, ok := r.rules[key]
	if !ok || ref.Kind == "Role" && namespace == "" {
		return nil, apierrors.NewNotFound(rbacv1.Resource(resource), ref.Name)
	}
	return rules, nil
}
