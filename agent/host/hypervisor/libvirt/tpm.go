package libvirt

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// RemoveTPM implements hypervisor.Lifecycle.
func (d *Driver) RemoveTPM(ctx context.Context, id string) error {
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return fmt.Errorf("remove the state of a TPM: %w: %q is not a uuid", hypervisor.ErrInvalid, id)
	}
	_, err := call(ctx, d, d.acts, "remove the state of TPM "+id, nil, func(conn *libvirt.Connect) (struct{}, error) {
		return struct{}{}, removeTPM(conn, id)
	})
	return err
}

// removeTPM lets libvirt remove the state, because only libvirt knows where it is.
// libvirt removes it when it undefines a domain, so removeTPM defines one for that
// purpose. If the agent dies in between, that domain remains, and the next call
// redefines it.
func removeTPM(conn *libvirt.Connect, id string) error {
	stub := &libvirtxml.Domain{
		Type: "qemu", Name: "virtmesh-tpm-" + id, UUID: id,
		Memory: &libvirtxml.DomainMemory{Value: 1, Unit: "MiB"},
		OS:     &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm"}},
		Devices: &libvirtxml.DomainDeviceList{TPMs: []libvirtxml.DomainTPM{{Backend: &libvirtxml.DomainTPMBackend{
			Emulator: &libvirtxml.DomainTPMBackendEmulator{Version: "2.0", PersistentState: "yes"},
		}}}},
	}
	if err := conflictingUUID(conn, stub); err != nil {
		return err
	}
	text, err := stub.Marshal()
	if err != nil {
		return err
	}
	dom, err := conn.DomainDefineXMLFlags(text, 0)
	if err != nil {
		return fmt.Errorf("define a domain for it: %w", err)
	}
	defer dom.Free()
	return dom.UndefineFlags(libvirt.DOMAIN_UNDEFINE_TPM)
}
