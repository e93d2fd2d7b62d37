package libvirt

import (
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// classify wraps an error of libvirt with the sentinel of the contract that fits.
func classify(err error) error {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return err
	}
	sentinel := sentinelFor(e)
	if sentinel == nil || errors.Is(err, sentinel) {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

func sentinelFor(e libvirt.Error) error {
	switch e.Code {
	case libvirt.ERR_NO_DOMAIN:
		return hypervisor.ErrNotFound
	case libvirt.ERR_OPERATION_INVALID:
		return hypervisor.ErrNotRunning
	case libvirt.ERR_AGENT_UNRESPONSIVE, libvirt.ERR_AGENT_UNSYNCED, libvirt.ERR_AGENT_COMMAND_TIMEOUT, libvirt.ERR_AGENT_COMMAND_FAILED:
		return hypervisor.ErrNoAgent
	case libvirt.ERR_XML_ERROR, libvirt.ERR_XML_DETAIL, libvirt.ERR_XML_INVALID_SCHEMA, libvirt.ERR_CONFIG_UNSUPPORTED:
		return hypervisor.ErrInvalid
	case libvirt.ERR_NO_CONNECT, libvirt.ERR_INVALID_CONN, libvirt.ERR_RPC:
		return hypervisor.ErrUnavailable
	case libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_SYSTEM_ERROR:
		// A connection that breaks under a call shows as one of these, from the RPC
		// or the socket layer.
		if e.Domain == libvirt.FROM_RPC || e.Domain == libvirt.FROM_REMOTE || e.Domain == libvirt.FROM_STREAMS {
			return hypervisor.ErrUnavailable
		}
	}
	return nil
}

// is says whether err is libvirt's error code.
func is(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == code
}
