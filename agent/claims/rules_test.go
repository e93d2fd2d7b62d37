package claims

import (
	"fmt"
	"slices"
	"testing"
)

// A replica that finds a version in its log which it does not know stops. So what
// was ever demanded stays.
func TestRulesThatLogsMayHoldAreKnown(t *testing.T) {
	var known []string
	for _, rule := range Rules() {
		known = append(known, fmt.Sprintf("%s/v%d", rule.Name, rule.Version))
	}
	for _, demanded := range []string{
		RuleHostCapacity + "/v1", RuleVMIOnce + "/v1", RuleVMIOnce + "/v2", RuleVMIOnce + "/v3", RuleVolumeOnce + "/v1",
		RulePlacedSince + "/v1", RulePlacedSince + "/v2", RuleMigrationSlots + "/v1", RuleMigrationSlots + "/v2",
	} {
		if !slices.Contains(known, demanded) {
			t.Errorf("%s is not known any more", demanded)
		}
	}
}
