package kinds

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/level"
	"virtmesh/agent/skew"
)

func resourceQuotaKind() *Kind {
	type quota = corev1.ResourceQuota
	return &Kind{
		GVK: core("ResourceQuota"), Resource: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"}, Namespaced: true,
		Status: true, FeatureLevel: level.Access,
		Object: &quota{}, List: &corev1.ResourceQuotaList{},
		Support: "works for `count/RESOURCE` of every kind in namespaces but Event, `requests.storage` also by storage class, and `requests.cpu` and `requests.memory` of instances. " +
			"Scopes are refused, since they select pods",
		Writers:        Writers{Spec: users, Status: "stewards/quota"},
		Validate:       validateWith(validateQuota),
		ValidateUpdate: validateUpdateWith(func(q, _ *quota) field.ErrorList { return validateQuota(q) }),
		Columns: []Column{
			column("Request", func(q *quota) any { return usedOf(q, false) }),
			column("Limit", func(q *quota) any { return usedOf(q, true) }),
			age,
		},
	}
}

// bareResources are the names without a group that limits can have, as in Kubernetes.
func bareResources() []corev1.ResourceName {
	return []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
}

func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	for _, name := range slices.Sorted(maps.Keys(q.Spec.Hard)) {
		limit, at := q.Spec.Hard[name], spec.Child("hard").Key(string(name))
		for _, problem := range validation.IsQualifiedName(string(name)) {
			errs = append(errs, field.Invalid(at, string(name), problem))
		}
		if !strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceHugePagesPrefix) && !slices.Contains(bareResources(), name) {
			errs = append(errs, field.Invalid(at, string(name), "must be a standard resource for quota"))
		}
		if limit.Sign() < 0 {
			errs = append(errs, field.Invalid(at, limit.String(), "must be greater than or equal to 0"))
		}
		if _, counts := usage.CountedKind(name); counts && limit.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, limit.String(), "must be an integer"))
		}
	}
	if len(q.Spec.Scopes) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("scopes"), "scopes select pods, and a mesh counts instances"))
	}
	if q.Spec.ScopeSelector != nil {
		errs = append(errs, field.Forbidden(spec.Child("scopeSelector"), "scopes select pods, and a mesh counts instances"))
	}
	return errs
}

// QuotaLimits reports whether a quota can limit a resource: whether something in a namespace
// uses it.
func QuotaLimits(name corev1.ResourceName) bool { return catalogue().limits(name) }

func (ix index) limits(name corev1.ResourceName) bool {
	if usage.Measured(name) {
		return true
	}
	of, ok := usage.CountedKind(name)
	if !ok {
		return false
	}
	kind, ok := ix.byResource[of]
	return ok && isCounted(kind)
}

// Counted returns the kinds whose objects quotas count.
func Counted() []*Kind {
	return slices.DeleteFunc(All(), func(k *Kind) bool { return !isCounted(k) })
}

// addQuotas makes quotas count the objects of the catalogue, and warn of limits that limit
// nothing here.
func (ix index) addQuotas() {
	for _, k := range ix.all {
		if isCounted(k) {
			k.Planners = append(k.Planners, usagePlanner(k))
		}
	}
	ix.byType[reflect.TypeFor[*corev1.ResourceQuota]()].Warnings = forType(func(q *corev1.ResourceQuota) (warnings []string) {
		for _, name := range slices.Sorted(maps.Keys(q.Spec.Hard)) {
			if !ix.limits(name) {
				warnings = append(warnings, fmt.Sprintf("spec.hard[%s]: nothing in this mesh uses it, so it limits nothing", name))
			}
		}
		return warnings
	})
}

// usedOf writes used and limit of the resources that are limits, or requests and numbers.
func usedOf(q *corev1.ResourceQuota, limits bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		if strings.HasPrefix(string(name), "limits.") == limits {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			parts = append(parts, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
		}
	}
	return strings.Join(parts, ", ")
}

// isCounted reports whether quotas count the objects of a kind. Events are left out, as in
// Kubernetes: what happens to the objects of a namespace must be told.
func isCounted(k *Kind) bool { return k.Namespaced && k.Resource != "events" }

// usagePlanner keeps what a namespace uses of its quotas, for objects of kind k.
func usagePlanner(k *Kind) Planner {
	return Planner{
		Reads: func(key Key) []string { return []string{usage.Key(key.Namespace)} },
		Plan: func(c Change, p *Plan) error {
			if err := planUsage(c, p); err != nil {
				return err
			}
			if k.GVK.GroupKind() == core("ResourceQuota").GroupKind() {
				return planLimits(c, p)
			}
			return nil
		},
	}
}

// planUsage charges a change to the namespace, if that has quotas.
func planUsage(c Change, p *Plan) error {
	resource := c.Kind.GroupResource()
	changesNothing := c.Old != nil && c.New != nil && !usage.HasContent(resource)
	if changesNothing {
		return nil
	}
	at := usage.Key(c.Key.Namespace)
	value := p.Value(at)
	if value == nil {
		p.Require(at) // whoever makes the record counts what he sees, so he must see this
		return nil
	}
	more, err := usageOf(c)
	if err != nil || len(more) == 0 {
		return err
	}
	record, err := usage.Decode(value)
	if err != nil {
		return err
	}
	if err := record.Charge(more); err != nil {
		return apierrors.NewForbidden(resource, c.Key.Name, err)
	}
	return putUsage(p, at, record)
}

// usageOf returns how much more is used by a change.
func usageOf(c Change) (usage.Amounts, error) {
	var before, after usage.Amounts
	for _, side := range []struct {
		read func() (Object, error)
		used *usage.Amounts
	}{{c.Old, &before}, {c.New, &after}} {
		if side.read == nil {
			continue
		}
		var obj runtime.Object
		if usage.HasContent(c.Kind.GroupResource()) {
			read, err := side.read()
			switch {
			case err == nil:
				obj = read
			case !errors.Is(err, ErrUnreadable):
				return nil, err
			}
		}
		*side.used = usage.Of(c.Kind.GroupResource(), obj)
	}
	return usage.Subtract(after, before), nil
}

// planLimits keeps the limits of a ResourceQuota in the record of its namespace, which the
// first quota makes and the last one removes.
func planLimits(c Change, p *Plan) error {
	at := usage.Key(c.Key.Namespace)
	hard, was, err := limitsOf(c)
	if err != nil {
		return err
	}
	if c.New != nil && c.Old != nil && reflect.DeepEqual(hard, was) {
		return nil
	}
	if c.Old == nil && c.Level < level.Access {
		return apierrors.NewForbidden(c.Kind.GroupResource(), c.Key.Name, fmt.Errorf("quotas need feature level %d, and the mesh is at %d", level.Access, c.Level))
	}
	var record usage.Record
	if value := p.Value(at); value != nil {
		if record, err = usage.Decode(value); err != nil {
			return err
		}
	}
	record.SetQuota(c.Key.Name, hard)
	if len(record.Limits) == 0 {
		p.Remove(at)
		return nil
	}
	return putUsage(p, at, record)
}

// limitsOf returns the limits of a quota before and after a change, nil where there is none.
func limitsOf(c Change) (hard, was usage.Amounts, err error) {
	read := func(side func() (Object, error)) (usage.Amounts, error) {
		if side == nil {
			return nil, nil
		}
		obj, err := side()
		if err != nil {
			return nil, err
		}
		limits := make(usage.Amounts)
		for name, limit := range obj.(*corev1.ResourceQuota).Spec.Hard {
			limits[name] = resource.MustParse(limit.String()) // the one form of equal amounts
		}
		return limits, nil
	}
	if hard, err = read(c.New); err != nil {
		return nil, nil, err
	}
	was, err = read(c.Old)
	return hard, was, err
}

// putUsage puts a record in the place of the one that the plan has, with what that has from newer
// versions.
func putUsage(p *Plan, at string, record usage.Record) error {
	value, err := skew.Rewrite(p.Value(at), record)
	if err != nil {
		return fmt.Errorf("write what a namespace uses: %w", err)
	}
	p.Put(at, value)
	return nil
}
