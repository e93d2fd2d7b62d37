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
		"a TPM":                     {func(in *Input) { devicesOf(in).TPM = &v1.TPMDevice{} }, false},
		"a shared disk":             {func(in *Input) { firstDisk(in).Shareable = &yes }, false},
		"a CD-ROM that others read": {func(in *Input) { insertShared(in, &v1.CDRomTarget{Bus: v1.DiskBusSATA}) }, false},
		"a CD that it writes":       {func(in *Input) { insertShared(in, &v1.CDRomTarget{Bus: v1.DiskBusSATA, ReadOnly: &no}) }, true},
		"a disk that others have":   {func(in *Input) { insertShared(in, nil) }, true},
		"no user":                   {func(in *Input) { in.User = nil }, false},
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

// insertShared puts the first disk on a volume that others may have, in a CD-ROM drive if there is one.
func insertShared(in *Input, drive *v1.CDRomTarget) {
	disk := firstDisk(in)
	if drive != nil {
		disk.DiskDevice = v1.DiskDevice{CDRom: drive}
	}
	source := in.Disks[disk.Name]
	source.HeldByMany = true
	in.Disks[disk.Name] = source
}
