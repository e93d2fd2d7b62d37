package place

import (
	"errors"
	"fmt"

	machine "virtmesh/agent/vmi"
)

// Strategy says which of the hosts that fit is best.
type Strategy string

const (
	// Balance prefers the host with the most left, so that load spreads.
	Balance Strategy = "balance"
	// Pack prefers the host with the least left, so that hosts stay empty.
	Pack Strategy = "pack"
)

// Policy is what placement prefers, and how far hosts may be committed.
type Policy struct {
	// Policy sizes the claims of instances.
	machine.Policy
	Strategy Strategy
	// AllowEmulation lets instances run on hosts where KVM does not work;
	// hosts where it does are preferred.
	AllowEmulation bool
	// SampleHosts is how many fitting hosts are compared, at most. Fewer are
	// faster; the best of 100 is close to the best of all.
	SampleHosts int
}

// DefaultPolicy returns what KubeVirt does by default, with instances spread over
// the hosts.
func DefaultPolicy() Policy {
	return Policy{Policy: machine.DefaultPolicy(), Strategy: Balance, AllowEmulation: true, SampleHosts: 100}
}

// Validate reports values that make no sense, all at once.
func (p Policy) Validate() error {
	errs := []error{p.Policy.Validate()}
	if p.Strategy != Balance && p.Strategy != Pack {
		errs = append(errs, fmt.Errorf("strategy is %q, want %q or %q", p.Strategy, Balance, Pack))
	}
	if p.SampleHosts < 1 {
		errs = append(errs, fmt.Errorf("sampleHosts is %d, want at least 1", p.SampleHosts))
	}
	return errors.Join(errs...)
}
