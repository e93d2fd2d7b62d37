package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// RemoveTPM implements hypervisor.Lifecycle.
func (d *Driver) RemoveTPM(ctx context.Context, id string) error {
	if err := validateUUID(id); err != nil {
		return fmt.Errorf("remove the state of a TPM: %w", err)
	}
	_, err := call(ctx, d, d.acts, "remove the state of TPM "+id, nil, func(conn *libvirt.Connect) (struct{}, error) {
		return struct{}{}, removeTPM(conn, id)
	})
	return err
}

// validateUUID returns an error unless id is a UUID as libvirt writes it.
func validateUUID(id string) error {
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return fmt.Errorf("%w: %q is not a uuid", hypervisor.ErrInvalid, id)
	}
	return nil
}

// HasTPM implements hypervisor.Lifecycle. It looks for the file of swtpm, and not for the
// directory that libvirt makes around it: in a directory without that file, swtpm begins
// anew.
func (d *Driver) HasTPM(ctx context.Context, id string) (bool, error) {
	err := ctx.Err()
	if err == nil {
		err = validateUUID(id)
	}
	if err != nil {
		return false, fmt.Errorf("look for the state of a TPM: %w", err)
	}
	info, err := os.Stat(filepath.Join(d.cfg.TPMDir, id, "tpm2", "tpm2-00.permall"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the state of TPM %s: %w", id, err)
	}
	return info.Size() > 0, nil
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
