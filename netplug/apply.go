package netplug

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// applyPlan carries out the steps of a plan and returns the errors by subject. After a
// step that fails, it skips the remaining steps of the subject and those of the subjects
// that need it. All other steps are carried out.
func (p *Plug) applyPlan(ctx context.Context, plan Plan) map[string]error {
	failed := maps.Clone(plan.Blocked)
	for _, s := range plan.Steps {
		if failed[s.Subject] != nil {
			continue
		}
		if err := needsFailed(s, failed); err != nil {
			failed[s.Subject] = err
			continue
		}
		if err := ctx.Err(); err != nil {
			failed[s.Subject] = err
			continue
		}
		if err := p.cfg.Kernel.Do(ctx, s.Op); err != nil {
			failed[s.Subject] = fmt.Errorf("%s: %w", s, err)
			continue
		}
		p.cfg.Logger.Debug("network changed", "subject", s.Subject, "step", s.String())
	}
	return failed
}

// needsFailed returns an error if a subject that the step needs has failed.
func needsFailed(s Step, failed map[string]error) error {
	for _, n := range s.Needs {
		if err := failed[n]; err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

// joinFailed joins all errors in the order of their subjects.
func joinFailed(failed map[string]error) error {
	var errs []error
	for _, subject := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, fmt.Errorf("%s: %w", subject, failed[subject]))
	}
	return errors.Join(errs...)
}
