package domain

import (
	"strings"
	"testing"

	v1 "kubevirt.io/api/core/v1"
)

// A guest runs under its own user, unless it has what only the common user can reach.
func TestGuestHasItsOwnUser(t *testing.T) {
	const own = `<seclabel type="static" model="dac" relabel="yes"> <label>+1900000123:+109</label>`
	yes, no := true, false
	for name, tc := range map[string]struct {
		change func(in *Input)
		own    bool
	}{
		"a guest":                    {func(*Input) {}, true},
		"a TPM that is switched off": {func(in *Input) { devicesOf(in).TPM = &v1.TPMDevice{Enabled: &no} }, true},
		"a TPM that it reaches": {func(in *Input) {
			devicesOf(in).TPM, in.User = &v1.TPMDevice{}, &User{UID: 1_900_000_123, GID: 109, ReachesTPM: true}
		}, true},
		"a TPM":         {func(in *Input) { devicesOf(in).TPM = &v1.TPMDevice{} }, false},
		"a shared disk": {func(in *Input) { firstDisk(in).Shareable = &yes }, false},
		"no user":       {func(in *Input) { in.User = nil }, false},
		"a claim that others read": {func(in *Input) {
			source := &v1.PersistentVolumeClaimVolumeSource{}
			source.ClaimName, source.ReadOnly = "data", true
			in.VMI.Spec.Volumes[0].VolumeSource = v1.VolumeSource{PersistentVolumeClaim: source}
		}, false},
	} {
		xml := definitionOf(t, tc.change)
		if strings.Contains(xml, own) != tc.own || strings.Contains(xml, `type="static"`) != tc.own {
			t.Errorf("%s: its own user: %v, want %v, in %s", name, !tc.own, tc.own, xml)
		}
	}
}
