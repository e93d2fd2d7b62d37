package host

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The Node's condition is True only if nothing that keeps guests apart is missing, and
// names what is.
func TestConfinementIsTold(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*confinement)
		says   string
	}{
		"all":         {func(*confinement) {}, ""},
		"SELinux":     {func(c *confinement) { c.models = []string{"selinux", "dac"} }, ""},
		"no profiles": {func(c *confinement) { c.models = []string{"dac"} }, "neither AppArmor nor SELinux"},
		"no users":    {func(c *confinement) { c.models = []string{"apparmor"} }, "no users of their own"},
		"no disks":    {func(c *confinement) { c.settings = map[string]string{"dynamic_ownership": "0"} }, "no users of their own"},
		"no seccomp":  {func(c *confinement) { c.settings = map[string]string{"seccomp_sandbox": "0"} }, "without seccomp"},
		"no sandbox":  {func(c *confinement) { c.sandbox = errors.New("setpriv: not found") }, "setpriv: not found"},
	} {
		c := confinement{models: []string{"apparmor", "dac"}}
		tc.change(&c)
		got := c.condition()
		want := corev1.ConditionTrue
		if tc.says != "" {
			want = corev1.ConditionFalse
		}
		if got.Status != want || !strings.Contains(got.Message, tc.says) {
			t.Errorf("%s: %s, %s", name, got.Status, got.Message)
		}
	}
}
