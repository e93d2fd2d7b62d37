package roles

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/kinds"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

// startLoops runs both loops on a host.
func startLoops(w *stewardstest.World, host string) {
	h := w.Host(host)
	r, err := NewRoles(h.Deps)
	w.Check(err)
	b, err := NewBindings(h.Deps)
	w.Check(err)
	h.Start(r.Run)
	h.Start(b.Run)
}

// inMesh runs a test in a mesh of two hosts that has roles.
func inMesh(t *testing.T, test func(w *stewardstest.World)) {
	t.Helper()
	stewardstest.Run(t, func(w *stewardstest.World) {
		w.Store.SetFeatureLevel(level.Access)
		startLoops(w, "h1")
		startLoops(w, "h2")
		w.Settle()
		test(w)
	})
}

func role(w *stewardstest.World, name string) *rbacv1.ClusterRole {
	return stewardstest.Get[*rbacv1.ClusterRole](w, objects.Key{Name: name})
}

func binding(w *stewardstest.World, name string) *rbacv1.ClusterRoleBinding {
	return stewardstest.Get[*rbacv1.ClusterRoleBinding](w, objects.Key{Name: name})
}

// custom is a role of an administrator.
func custom(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return clusterRole(name, map[string]string{label: "true"}, rules...)
}

var backups = rule("backup.example.org", verbs("get"), "backups")

// A mesh gets its roles when it is raised to their level, and nothing before; then it is
// at rest.
func TestAMeshGetsItsRolesWithTheLevel(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		w.Store.SetFeatureLevel(level.Access - 1)
		startLoops(w, "h1")
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Fatalf("%d writes below the level", n)
		}
		w.Store.SetFeatureLevel(level.Access)
		w.Settle()
		w.Settle()
		for _, o := range Bootstrap() {
			kind, err := kinds.Of(o)
			w.Check(err)
			if !slices.Contains(w.Store.Keys(kind.Prefix()), kind.StoreKey(kinds.KeyOf(o))) {
				t.Errorf("there is no %s %s", kind.GVK.Kind, o.GetName())
			}
		}
		if got := allowed(role(w, view).Rules, "kubevirt.io/virtualmachines"); got != look {
			t.Errorf("who may view may %q machines", got)
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Errorf("%d writes at rest", n)
		}
	})
}

// What is taken from the roles of the program comes back, what is added stays, and deleted
// ones are made anew.
func TestRolesOfTheProgramAreCompleted(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		key := objects.Key{Name: "kubevirt.io:view"}
		want := role(w, key.Name).Rules
		stewardstest.Edit(w, key, func(r *rbacv1.ClusterRole) {
			r.Rules = append(slices.Clone(r.Rules[1:]), backups)
			r.Labels["mine"] = "yes"
			delete(r.Labels, aggregateTo+view)
		})
		stewardstest.Edit(w, objects.Key{Name: "system:discovery"}, func(b *rbacv1.ClusterRoleBinding) {
			b.Subjects = []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "ann"}}
		})
		w.Settle()
		got := role(w, key.Name)
		for _, r := range append(want, backups) {
			if uncovered := uncoveredBy(got.Rules, r); len(uncovered) > 0 {
				t.Errorf("not allowed any more: %v", uncovered)
			}
		}
		if got.Labels["mine"] != "yes" || got.Labels[aggregateTo+view] != "true" {
			t.Errorf("labels %v", got.Labels)
		}
		var subjects []string
		for _, s := range binding(w, "system:discovery").Subjects {
			subjects = append(subjects, s.Name)
		}
		if strings.Join(subjects, ",") != "ann,system:authenticated" {
			t.Errorf("subjects %v", subjects)
		}
		stewardstest.Delete[*rbacv1.ClusterRole](w, key, objects.DeleteOptions{})
		stewardstest.Delete[*rbacv1.ClusterRoleBinding](w, objects.Key{Name: "cluster-admin"}, objects.DeleteOptions{})
		w.Settle()
		if again := role(w, key.Name); again == nil || !sameRules(again.Rules, bootstrapOf[*rbacv1.ClusterRole]()[key.Name].Rules) {
			t.Errorf("the deleted role is %+v", again)
		}
		if binding(w, "cluster-admin") == nil {
			t.Error("the deleted binding stays away")
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Errorf("%d writes at rest", n)
		}
	})
}

// An administrator who says so keeps what was changed; the rules of an aggregated role are
// gathered all the same.
func TestRolesThatAreNotUpdated(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		stewardstest.Edit(w, objects.Key{Name: "kubevirt.io:edit"}, func(r *rbacv1.ClusterRole) {
			r.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
			r.Rules = []rbacv1.PolicyRule{backups}
		})
		stewardstest.Edit(w, objects.Key{Name: "system:basic-user"}, func(b *rbacv1.ClusterRoleBinding) {
			b.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
			b.Subjects = nil
		})
		w.Settle()
		if got := role(w, "kubevirt.io:edit").Rules; !reflect.DeepEqual(got, []rbacv1.PolicyRule{backups}) {
			t.Errorf("rules %v", got)
		}
		if got := binding(w, "system:basic-user").Subjects; len(got) != 0 {
			t.Errorf("subjects %v", got)
		}
		if got := allowed(role(w, edit).Rules, "subresources.kubevirt.io/virtualmachines/start"); got != "" {
			t.Errorf("who may edit may %q start, which was taken away", got)
		}
	})
}

// What is being deleted is left to who deletes it, and made anew when it is gone.
func TestWhatIsBeingDeleted(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		key, bound := objects.Key{Name: "kubevirt.io:view"}, objects.Key{Name: "system:monitoring"}
		stewardstest.Edit(w, key, func(r *rbacv1.ClusterRole) { r.Finalizers = []string{"example.org/wait"} })
		stewardstest.Delete[*rbacv1.ClusterRole](w, key, objects.DeleteOptions{})
		stewardstest.Edit(w, key, func(r *rbacv1.ClusterRole) { r.Rules = nil })
		stewardstest.Edit(w, bound, func(b *rbacv1.ClusterRoleBinding) { b.Finalizers = []string{"example.org/wait"} })
		stewardstest.Delete[*rbacv1.ClusterRoleBinding](w, bound, objects.DeleteOptions{})
		stewardstest.Edit(w, bound, func(b *rbacv1.ClusterRoleBinding) { b.Subjects = nil })
		w.Settle()
		if got := binding(w, bound.Name).Subjects; len(got) != 0 {
			t.Errorf("the binding was given subjects: %v", got)
		}
		if got := role(w, key.Name).Rules; len(got) != 0 {
			t.Errorf("it was given rules: %v", got)
		}
		stewardstest.Edit(w, key, func(r *rbacv1.ClusterRole) { r.Finalizers = nil })
		w.Settle()
		if got := role(w, key.Name); got == nil || got.DeletionTimestamp != nil || len(got.Rules) == 0 {
			t.Errorf("the role is %+v", got)
		}
	})
}

// A binding of the program is of its role, whatever somebody has put in its place.
func TestABindingOfAnotherRoleIsReplaced(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		w.Store.SetFeatureLevel(level.Access)
		stolen := bind("system:discovery", "system:authenticated")
		stolen.RoleRef.Name = "cluster-admin"
		w.Create(stolen)
		startLoops(w, "h1")
		w.Settle()
		got := binding(w, "system:discovery")
		if got == nil || got.RoleRef.Name != "system:discovery" {
			t.Fatalf("the binding is %+v", got)
		}
		if got.UID == stolen.UID {
			t.Error("who watched the other binding saw its role change, which no client expects")
		}
	})
}

// A role that an administrator labels adds to those of people, through all that aggregate
// each other, and takes its rules with it when it goes.
func TestLabelledRolesAddToOthers(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		w.Create(custom("backup-viewer", aggregateTo+view, backups))
		w.Settle()
		for _, name := range []string{view, edit, admin} {
			if got := allowed(role(w, name).Rules, "backup.example.org/backups"); got != "get" {
				t.Errorf("%s may %q backups", name, got)
			}
		}
		stewardstest.Edit(w, objects.Key{Name: "backup-viewer"}, func(r *rbacv1.ClusterRole) {
			r.Labels = map[string]string{aggregateTo + edit: "true"}
		})
		w.Settle()
		if got := allowed(role(w, view).Rules, "backup.example.org/backups"); got != "" {
			t.Errorf("who may view may still %q backups", got)
		}
		stewardstest.Delete[*rbacv1.ClusterRole](w, objects.Key{Name: "backup-viewer"}, objects.DeleteOptions{})
		w.Settle()
		for _, name := range []string{edit, admin} {
			if got := allowed(role(w, name).Rules, "backup.example.org/backups"); got != "" {
				t.Errorf("%s may still %q backups", name, got)
			}
		}
	})
}

// An aggregated role has what its sources have, and nothing that somebody writes into it.
func TestRulesOfAnAggregatedRoleAreGathered(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		before := role(w, view).Rules
		stewardstest.Edit(w, objects.Key{Name: view}, func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{backups} })
		w.Settle()
		if got := role(w, view).Rules; !sameRules(got, before) {
			t.Errorf("rules %v", got)
		}
	})
}

// The order of rules says nothing. A host whose version gathers them in another one does not
// write against this one.
func TestTheOrderOfGatheredRules(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		last := role(w, view).Rules[0]
		stewardstest.Edit(w, objects.Key{Name: view}, func(r *rbacv1.ClusterRole) { slices.Reverse(r.Rules) })
		w.Settle()
		if rules := role(w, view).Rules; !reflect.DeepEqual(rules[len(rules)-1], last) {
			t.Error("the rules were written in their first order again")
		}
	})
}

// Roles that aggregate each other have the same rules, lose what their sources lose, and are
// at rest.
func TestRolesThatAggregateEachOther(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		left, right := aggregated("left", ""), aggregated("right", "")
		left.Labels, right.Labels = aggregatedTo("right"), aggregatedTo("left")
		w.Create(left, right, custom("source", aggregateTo+"left", backups))
		w.Settle()
		for _, name := range []string{"left", "right"} {
			if got := allowed(role(w, name).Rules, "backup.example.org/backups"); got != "get" {
				t.Errorf("%s may %q backups", name, got)
			}
		}
		stewardstest.Delete[*rbacv1.ClusterRole](w, objects.Key{Name: "source"}, objects.DeleteOptions{})
		w.Settle()
		for _, name := range []string{"left", "right"} {
			if got := role(w, name).Rules; len(got) != 0 {
				t.Errorf("%s still has rules %v", name, got)
			}
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Errorf("%d writes at rest", n)
		}
	})
}

// Whatever aggregates what, also in circles: an aggregated role allows what the roles with
// rules allow that it reaches, and nothing else, whatever the others have gathered so far.
func TestAnAggregatedRoleHasWhatItReaches(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawRole), 1, 7).Draw(rt, "roles")
		for i, r := range all {
			r.Name = "r" + string(rune('0'+i))
		}
		reached := reach(all)
		for _, r := range all {
			if r.AggregationRule == nil {
				continue
			}
			rules, err := gatherRules(r, all)
			if err != nil {
				rt.Fatal(err)
			}
			have := map[string]bool{}
			for _, rule := range rules {
				if have[rule.Resources[0]] {
					rt.Errorf("%s has a rule twice: %v", r.Name, rules)
				}
				have[rule.Resources[0]] = true
			}
			if !reflect.DeepEqual(have, reached[r.Name]) {
				rt.Errorf("%s allows %v, want %v", r.Name, have, reached[r.Name])
			}
		}
	})
}

// drawRole draws a role with labels among a and b that gathers the rules of a or b, or has
// its own; what an aggregated role holds is left over from before.
func drawRole(t *rapid.T) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{}}}
	label := rapid.SampledFrom([]string{"a", "b"})
	for _, l := range rapid.SliceOfN(label, 0, 2).Draw(t, "labels") {
		r.Labels[l] = "true"
	}
	if rapid.Bool().Draw(t, "aggregated") {
		selector := metav1.LabelSelector{MatchLabels: map[string]string{label.Draw(t, "gathers"): "true"}}
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{selector}}
	}
	r.Rules = []rbacv1.PolicyRule{rule("g", verbs("get"), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "resource"))}
	return r
}

// reach returns the resources that each role should allow, found by passing on rules until
// nothing is new.
func reach(all []*rbacv1.ClusterRole) map[string]map[string]bool {
	allow := map[string]map[string]bool{}
	for _, r := range all {
		allow[r.Name] = map[string]bool{}
		for _, rule := range r.Rules {
			if r.AggregationRule == nil {
				allow[r.Name][rule.Resources[0]] = true
			}
		}
	}
	for range all {
		for _, to := range all {
			for _, from := range all {
				if to.AggregationRule == nil || !gathers(to, from) {
					continue
				}
				for resource := range allow[from.Name] {
					allow[to.Name][resource] = true
				}
			}
		}
	}
	return allow
}

func gathers(to, from *rbacv1.ClusterRole) bool {
	for label := range to.AggregationRule.ClusterRoleSelectors[0].MatchLabels {
		if from.Labels[label] == "true" {
			return true
		}
	}
	return false
}

func TestConstructorsSayWhatIsMissing(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		d := w.Host("h1").Deps
		d.Store = nil
		if _, err := NewRoles(d); err == nil {
			t.Error("no error without a store")
		}
		if _, err := NewBindings(d); err == nil {
			t.Error("no error without a store")
		}
	})
}
