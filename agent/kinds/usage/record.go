package usage

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Prefix is the prefix of the store keys of Records.
const Prefix = "/usage/"

// Key returns the store key of the Record of a namespace.
func Key(namespace string) string { return Prefix + namespace }

// NamespaceOf returns the namespace of the Record at a store key.
func NamespaceOf(storeKey string) string { return strings.TrimPrefix(storeKey, Prefix) }

// Record is what a namespace uses, and what its quotas allow.
type Record struct {
	// Limits are the limits of the namespace's quotas (spec.hard), by name.
	Limits map[string]Amounts `json:"limits"`
	// Used is what the objects of the namespace use. Until they were counted, it is how much
	// more they use than when the record was made; that can be negative.
	Used Amounts `json:"used,omitempty"`
	// Counts is how often somebody has counted the objects and added what Used lacked. Whoever
	// finds that another has done so meanwhile must not add what he found himself.
	Counts uint64 `json:"counts,omitempty"`
}

// Counted reports whether what was there when the record was made is in Used.
func (r Record) Counted() bool { return r.Counts > 0 }

// Decode reads a stored Record.
func Decode(value []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("decode what a namespace uses: %w", err)
	}
	return r, nil
}

// Charge adds what a change of one object uses more, or less where it is negative. It returns
// an error, and changes nothing, if that is more than a quota allows. Whoever takes less of a
// resource is not held up because others have too much.
func (r *Record) Charge(more Amounts) error {
	for _, quota := range slices.Sorted(maps.Keys(r.Limits)) {
		if err := r.checkQuota(quota, more); err != nil {
			return err
		}
	}
	r.Used = Add(r.Used, more)
	return nil
}

// checkQuota returns why a quota does not allow a change. The texts are those of Kubernetes,
// because scripts look for them.
func (r *Record) checkQuota(quota string, more Amounts) error {
	requested, used := Amounts{}, Amounts{}
	var wanted, exceeded []corev1.ResourceName
	for name, limit := range r.Limits[quota] {
		asked := more[canonical(name)]
		if asked.Sign() <= 0 {
			continue
		}
		wanted = append(wanted, name)
		requested[name], used[name] = asked, r.Used[canonical(name)]
		sum := used[name].DeepCopy()
		sum.Add(asked)
		if sum.Cmp(limit) > 0 {
			exceeded = append(exceeded, name)
		}
	}
	switch {
	case len(wanted) > 0 && !r.Counted():
		slices.Sort(wanted)
		return fmt.Errorf("status unknown for quota: %s, resources: %s", quota, join(wanted))
	case len(exceeded) > 0:
		return fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
			quota, text(requested, exceeded), text(used, exceeded), text(r.Limits[quota], exceeded))
	}
	return nil
}

func join(names []corev1.ResourceName) string {
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(name))
	}
	return b.String()
}

// SetQuota sets the limits of a quota, or forgets it if limits is nil. More may be used than
// they allow: quotas take nothing away.
func (r *Record) SetQuota(name string, limits Amounts) {
	if r.Limits == nil {
		r.Limits = map[string]Amounts{}
	}
	if limits == nil {
		delete(r.Limits, name)
		return
	}
	r.Limits[name] = limits
}

// Under returns how much is used of what limits names, as a quota's status tells it. Resources
// that nothing of a mesh uses are left out. ok is false until that is known.
func (r Record) Under(limits Amounts, uses func(corev1.ResourceName) bool) (used Amounts, ok bool) {
	used = Amounts{}
	for name := range limits {
		if !uses(name) {
			continue
		}
		amount := r.Used[canonical(name)].DeepCopy()
		if amount.Sign() < 0 {
			amount = resource.Quantity{Format: amount.Format}
		}
		used[name] = amount
	}
	return used, r.Counted()
}
