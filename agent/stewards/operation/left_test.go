package operation

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/stewards/stewardstest"
)

// However an operation ends, it says what it leaves to do, by the steps that were done, in its
// status and in the event of its end; and what a step did stands beside it.
func TestAnOperationSaysWhatItLeavesToDo(t *testing.T) {
	for name, c := range map[string]struct {
		cancels, fails bool
		phase          meshv1alpha1.OperationPhase
		message        string
	}{
		"done":      {phase: meshv1alpha1.OperationSucceeded, message: "look after one and two"},
		"cancelled": {cancels: true, phase: meshv1alpha1.OperationCancelled, message: "look after one"},
		"failed":    {fails: true, phase: meshv1alpha1.OperationFailed, message: "it can never work; look after one"},
	} {
		t.Run(name, func(t *testing.T) {
			stewardstest.Run(t, func(w *stewardstest.World) {
				asked := 0
				act := Act{
					Plan: func(*Object) []Step {
						return []Step{
							{Name: "one", Do: func(context.Context, func(done, total int64)) error {
								time.Sleep(time.Minute)
								return nil
							}, Note: func() string { return "did seven" }},
							{Name: "two", Do: func(context.Context, func(done, total int64)) error {
								if c.fails {
									return Permanent(errors.New("it can never work"))
								}
								return nil
							}},
						}
					},
					Left: func(_ context.Context, op *Object) (string, error) {
						if asked++; asked == 1 && !c.fails {
							return "", errors.New("nobody answers now")
						}
						var done []string
						for _, step := range op.Status.Steps {
							if step.Phase == meshv1alpha1.StepDone {
								done = append(done, step.Name)
							}
						}
						return "look after " + strings.Join(done, " and "), nil
					},
				}
				for _, host := range []string{"h1", "h2", "h3"} {
					controller, err := New(w.Host(host).Deps, host, Acts{testType: act})
					w.Check(err)
					w.Host(host).Start(controller.Run)
				}
				w.Create(&Object{ObjectMeta: metav1.ObjectMeta{Name: opKey.Name}, Spec: meshv1alpha1.OperationSpec{Type: testType, Target: "x"}})
				time.Sleep(30 * time.Second)
				if c.cancels {
					stewardstest.Edit(w, opKey, func(op *Object) { op.Spec.Cancel = true })
				}
				time.Sleep(5 * time.Minute)
				op := get(w)
				if op.Status.Phase != c.phase || op.Status.Message != c.message || op.Status.Steps[0].Message != "did seven" {
					t.Errorf("%+v", op.Status)
				}
				told := false
				for _, event := range stewardstest.List[*corev1.Event](w) {
					told = told || event.Reason == string(c.phase) && strings.Contains(event.Message, c.message)
				}
				if !told {
					t.Errorf("no event tells %q", c.message)
				}
			})
		})
	}
}
