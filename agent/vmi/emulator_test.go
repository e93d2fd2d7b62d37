package vmi

import (
	"reflect"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestEmulatorLacks(t *testing.T) {
	yes, no := true, false
	ample := Emulator{MachineTypes: []string{"pc-q35-7.2", "q35"}, MaxVCPUs: 8, EFI: true, SecureBoot: true, TPM: true}
	efi := func(secure *bool) func(*kubevirtv1.DomainSpec) {
		return func(d *kubevirtv1.DomainSpec) {
			d.Firmware = &kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{EFI: &kubevirtv1.EFI{SecureBoot: secure}}}
		}
	}
	for name, tc := range map[string]struct {
		host Emulator
		edit func(*kubevirtv1.DomainSpec)
		want []Lack
	}{
		"a plain guest anywhere": {Emulator{}, func(*kubevirtv1.DomainSpec) {}, nil},
		"an alias":               {ample, func(d *kubevirtv1.DomainSpec) { d.Machine = &kubevirtv1.Machine{Type: "q35"} }, nil},
		"a newer machine": {ample, func(d *kubevirtv1.DomainSpec) { d.Machine = &kubevirtv1.Machine{Type: "pc-q35-9.0"} },
			[]Lack{{"machine.type", "pc-q35-9.0", "machine type pc-q35-9.0"}}},
		"as many CPUs as there can be": {ample, func(d *kubevirtv1.DomainSpec) { d.CPU = &kubevirtv1.CPU{Sockets: 4, Cores: 2, MaxSockets: 16} }, nil},
		"too many CPUs": {ample, func(d *kubevirtv1.DomainSpec) { d.CPU = &kubevirtv1.CPU{Sockets: 9} },
			[]Lack{{"cpu", 9, "machine with 9 CPUs"}}},
		"efi":         {Emulator{}, efi(&no), []Lack{{"firmware.bootloader.efi", nil, "EFI firmware"}}},
		"secure boot": {Emulator{EFI: true}, efi(nil), []Lack{{"firmware.bootloader.efi.secureBoot", true, "EFI firmware with secure boot"}}},
		"both":        {ample, efi(&yes), nil},
		"tpm": {Emulator{}, func(d *kubevirtv1.DomainSpec) { d.Devices.TPM = &kubevirtv1.TPMDevice{} },
			[]Lack{{"devices.tpm", nil, "TPM emulator"}}},
		"no tpm": {Emulator{}, func(d *kubevirtv1.DomainSpec) { d.Devices.TPM = &kubevirtv1.TPMDevice{Enabled: &no} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := &kubevirtv1.VirtualMachineInstance{}
			tc.edit(&vmi.Spec.Domain)
			if got := tc.host.Lacks(NeedsOf(vmi)); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestLabelsTellOfTheEmulator(t *testing.T) {
	for _, want := range []Emulator{
		{MachineTypes: []string{"pc-q35-7.2", "q35"}, MaxVCPUs: 255, EFI: true, SecureBoot: true, TPM: true},
		{EFI: true},
		{MaxVCPUs: 1, TPM: true},
	} {
		labels := map[string]string{"other": "true"}
		want.SetLabels(labels)
		if got, ok := EmulatorOf(labels); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, ok, want)
		}
	}
	if got, ok := EmulatorOf(map[string]string{"other": "true"}); ok {
		t.Errorf("a host that says nothing is known as %+v", got)
	}
}

func TestTheFirstStartChoosesTheMachine(t *testing.T) {
	vmi := &kubevirtv1.VirtualMachineInstance{}
	if got := MachineType(vmi); got != "" {
		t.Errorf("got %q", got)
	}
	vmi.Spec.Domain.Machine = &kubevirtv1.Machine{Type: "q35"}
	if got := NeedsOf(vmi).MachineType; got != "q35" {
		t.Errorf("got %q", got)
	}
	vmi.Status.Machine = &kubevirtv1.Machine{Type: "pc-q35-7.2"}
	if got := NeedsOf(vmi).MachineType; got != "pc-q35-7.2" {
		t.Errorf("got %q", got)
	}
}
