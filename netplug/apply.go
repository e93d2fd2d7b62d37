package netplug

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// apply makes the steps of a plan, and returns what failed by subject. A step that fails
// ends its subject, and what needs the subject; all else goes on.
func (p *Plug) apply(ctx context.Context, plan Plan) map[string]error {
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

// needsFailed says which subject that the step needs has failed.
func needsFailed(s Step, failed map[string]error) error {
	for _, n := range s.Needs {
		if err := failed[n]; err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

// joinFailed makes one error of all, in the order of subjects.
func joinFailed(failed map[string]error) error {
	var errs []error
	for _, subject := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, fmt.Errorf("%s: %w", subject, failed[subject]))
	}
	return errors.Join(errs...)
}
