package shape

import (
	"maps"
	"slices"
	"testing"
)

// excused names, by rule, what does not meet the rule yet or on purpose, with
// the reason. Nothing is added for convenience.
var excused = map[string]map[string]string{
	"structs": {
		"raftstore/store.go Store": "to be divided into its parts",
	},
	"wrap": {
		"agent/host/hypervisor/kvmprobe/probe.go the test guest ended %s (%v): %s": "the cause may be nil: a guest that ends well too early",
		"agent/host/hypervisor/privatelibvirtd/instance.go it ended at once (%v)":  "the cause may be nil: a daemon that ends well too early",
	},
}

// rule collects what breaks a rule and is not excused.
type rule struct {
	t    *testing.T
	name string
	met  map[string]bool // excuses that were needed
}

func newRule(t *testing.T, name string) *rule {
	return &rule{t: t, name: name, met: map[string]bool{}}
}

// broken reports that what breaks the rule, unless it is excused.
func (r *rule) broken(what, format string, args ...any) {
	r.t.Helper()
	if _, ok := excused[r.name][what]; ok {
		r.met[what] = true
		return
	}
	r.t.Errorf(format+"\n\t(rule %q, key %q)", append(args, r.name, what)...)
}

// done reports excuses that nothing needs any more.
func (r *rule) done() {
	r.t.Helper()
	for _, what := range slices.Sorted(maps.Keys(excused[r.name])) {
		if !r.met[what] {
			r.t.Errorf("%s is excused from rule %q without need: take it off the list", what, r.name)
		}
	}
}
