package access_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	rbacv1 "k8s.io/api/rbac/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/kinds"
)

// Whatever is written and deleted, in whatever order, the decisions are those that a look at
// everything gives.
func TestDecisionsFollowTheStore(t *testing.T) {
	// Fake time has no place for another T in it, so each run has a bubble of its own.
	rapid.Check(t, func(rt *rapid.T) {
		var wrong string
		steps := rapid.SliceOfN(rapid.Custom(drawWrite), 1, 25).Draw(rt, "writes")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			stop := w.read()
			defer stop()
			list := map[string]kinds.Object{}
			for _, s := range steps {
				if id := s.id(); s.delete {
					if list[id] == nil {
						continue
					}
					w.remove(s.object)
					delete(list, id)
				} else {
					w.put(s.object)
					list[id] = s.object
				}
				synctest.Wait()
				for _, who := range []string{"u0", "u1", "system:serviceaccount:n0:u0", "system:serviceaccount:n1:u0"} {
					for _, groups := range [][]string{nil, {"u1", "u2"}} {
						for _, request := range []string{"get core r0 n0", "get core r1 n1", "get core r0"} {
							u := named(who, groups...)
							got, _ := w.allows(u, request)
							if want := loop(list, u, request); got != want && wrong == "" {
								wrong = fmt.Sprintf("%s %v: %s: allowed is %v, want %v", who, groups, request, got, want)
							}
						}
					}
				}
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// write is a change of one object.
type write struct {
	object kinds.Object
	delete bool
}

func (w write) id() string {
	kind, err := kinds.Of(w.object)
	if err != nil {
		panic(err)
	}
	return kind.GVK.Kind + " " + w.object.GetNamespace() + "/" + w.object.GetName()
}

func drawWrite(t *rapid.T) write {
	pick := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	var rules []rbacv1.PolicyRule
	for i := range pick("rules", 3) {
		rules = append(rules, rule("get", "core", fmt.Sprint("r", (i+pick("resource", 2))%2)))
	}
	var subjects []rbacv1.Subject
	for range pick("subjects", 4) {
		name := fmt.Sprint("u", pick("who", 3))
		switch pick("kind of subject", 3) {
		case 0:
			subjects = append(subjects, person(name))
		case 1:
			subjects = append(subjects, team(name))
		case 2:
			subjects = append(subjects, account(fmt.Sprint("n", pick("namespace of account", 2)), name))
		}
	}
	namespace, name, to := fmt.Sprint("n", pick("namespace", 2)), fmt.Sprint("o", pick("name", 2)), fmt.Sprint("o", pick("role", 2))
	w := write{delete: pick("deletes", 3) == 0}
	switch pick("kind", 5) {
	case 0:
		w.object = clusterRole(name, rules...)
	case 1:
		w.object = role(namespace, name, rules...)
	case 2:
		w.object = bind("", name, "ClusterRole/"+to, subjects...)
	case 3:
		w.object = bind(namespace, name, "ClusterRole/"+to, subjects...)
	case 4:
		w.object = bind(namespace, name, "Role/"+to, subjects...)
	}
	return w
}

// BenchmarkAuthorize measures a decision about one of 100 users in a mesh with 1,000 bindings in 50
// namespaces, beside one that looks at all bindings.
func BenchmarkAuthorize(b *testing.B) {
	w := newWorld(b)
	list := map[string]kinds.Object{}
	add := func(o kinds.Object) {
		w.put(o)
		list[write{object: o}.id()] = o
	}
	for i := range 10 {
		add(clusterRole(fmt.Sprint("o", i), rule("get list watch", "core", "configmaps secrets"), rule("get", "core", "r0")))
	}
	for i := range 1000 {
		add(bind(fmt.Sprint("n", i%50), fmt.Sprint("b", i), fmt.Sprint("ClusterRole/o", i%10), person(fmt.Sprint("u", i%100))))
	}
	defer w.read()()
	if err := w.roles.AwaitSync(b.Context()); err != nil {
		b.Fatal(err)
	}
	users := make([]string, 100)
	for i := range users {
		users[i] = fmt.Sprint("u", i)
	}
	b.Run("index", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			u := named(users[i%100], "people", "system:authenticated")
			if _, _, err := w.roles.Authorize(context.Background(), ask(u, "get core r0 n1")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("loop", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			loop(list, named(users[i%100], "people", "system:authenticated"), "get core r0 n1")
		}
	})
}
