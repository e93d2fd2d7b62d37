package cli

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestObstacle(t *testing.T) {
	condition := func(kind, status, reason, message string) any {
		return map[string]any{"type": kind, "status": status, "reason": reason, "message": message}
	}
	for name, test := range map[string]struct {
		conditions []any
		want       string
	}{
		"none":           {nil, ""},
		"nothing is bad": {[]any{condition("Ready", "False", "GuestNotRunning", "Guest VM is not reported as running"), condition("PodScheduled", "True", "", "")}, ""},
		"no host fits":   {[]any{condition("Ready", "False", "GuestNotRunning", "x"), condition("PodScheduled", "False", "Unschedulable", "0/3 hosts are available")}, "0/3 hosts are available"},
		"image missing":  {[]any{condition("PodScheduled", "False", "Unschedulable", "old"), condition("Synchronized", "False", "ErrImagePull", "the registry does not know the image")}, "the registry does not know the image"},
		"reason alone":   {[]any{condition("Synchronized", "False", "FailedCreate", "")}, "FailedCreate"},
		"not a map":      {[]any{"x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			vm := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": test.conditions}}}
			if got := obstacle(vm); got != test.want {
				t.Errorf("obstacle %q, want %q", got, test.want)
			}
		})
	}
}
