package domain

import (
	"errors"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation/field"
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// Convert returns the domain that runs in.VMI, and warnings for the user about what
// this host can only approximate. The error joins a *FieldError for each field that
// is invalid or that this host cannot honour.
func Convert(in Input) (*libvirtxml.Domain, []string, error) {
	if in.VMI == nil {
		return nil, nil, errors.New("convert to domain: no VMI given")
	}
	c := &conversion{
		Input:  in,
		domain: in.VMI.Spec.Domain,
		root:   field.NewPath("spec", "domain"),
		out: &libvirtxml.Domain{
			OS:       &libvirtxml.DomainOS{},
			Features: &libvirtxml.DomainFeatureList{},
			Devices:  &libvirtxml.DomainDeviceList{Emulator: in.Machine.Emulator},
		},
	}
	for _, part := range parts {
		part(c)
	}
	if err := errors.Join(c.errs...); err != nil {
		return nil, c.warnings, fmt.Errorf("convert %s/%s to domain: %w", in.VMI.Namespace, in.VMI.Name, err)
	}
	return c.out, c.warnings, nil
}

// parts lists the steps of the conversion in their order. Only the last one depends on
// the order.
var parts = []func(*conversion){
	emulator,
	identity,
	confinement,
	smbios,
	operatingSystem,
	firmware,
	cpu,
	cpuTime,
	pinning,
	memory,
	features,
	clock,
	ioThreads,
	disks,
	filesystems,
	interfaces,
	serialConsole,
	channels,
	graphics,
	inputs,
	sound,
	balloon,
	rng,
	watchdog,
	tpm,
	panics,
	vsock,
	hostDevices,
	unsupported,
	controllers,
	pciPorts,
}

// conversion is one Convert in progress.
type conversion struct {
	Input
	domain v1.DomainSpec
	root   *field.Path
	out    *libvirtxml.Domain

	errs     []error
	warnings []string
}

// FieldError reports a field of the VMI that cannot be converted, and why.
type FieldError struct {
	// Field is the path, as spec.domain.devices.disks[0].disk.bus.
	Field string
	// Value is the value of the field.
	Value any
	// Reason completes "<field>: <value>: ".
	Reason string
	// Unsupported says that the value is valid, but not on this host or not in this
	// version; otherwise it is wrong.
	Unsupported bool
}

// Error implements error.
func (e *FieldError) Error() string {
	kind := "invalid value"
	if e.Unsupported {
		kind = "unsupported"
	}
	if e.Value == nil {
		return fmt.Sprintf("%s: %s: %s", e.Field, kind, e.Reason)
	}
	return fmt.Sprintf("%s: %s %q: %s", e.Field, kind, fmt.Sprint(e.Value), e.Reason)
}

func (c *conversion) invalid(path *field.Path, value any, format string, args ...any) {
	c.errs = append(c.errs, &FieldError{Field: path.String(), Value: value, Reason: fmt.Sprintf(format, args...)})
}

func (c *conversion) unsupported(path *field.Path, value any, format string, args ...any) {
	c.errs = append(c.errs, &FieldError{Field: path.String(), Value: value, Reason: fmt.Sprintf(format, args...), Unsupported: true})
}

func (c *conversion) warn(path *field.Path, format string, args ...any) {
	c.warnings = append(c.warnings, path.String()+": "+fmt.Sprintf(format, args...))
}

// enabled reads KubeVirt's tri-state booleans.
func enabled(b *bool, byDefault bool) bool {
	if b == nil {
		return byDefault
	}
	return *b
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// userAlias names a device so that the name survives in the running domain, in events
// and in statistics.
func userAlias(name string) *libvirtxml.DomainAlias {
	return &libvirtxml.DomainAlias{Name: hypervisor.AliasPrefix + name}
}

func itoa(i int) string { return strconv.Itoa(i) }

func ptr[T any](v T) *T { return &v }
