package libvirt

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// translate turns an error of libvirt into a hypervisor.Fault: a sentence for people
// that wraps the matching sentinel of the contract. libvirt's own message goes to the
// log. Other errors are returned unchanged.
func (d *Driver) translate(act string, err error) error {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return err
	}
	fault := faultOf(e)
	fault.Cause = err
	for _, s := range contractErrors {
		if !errors.Is(fault.Sentinel, s) && errors.Is(err, s) {
			fault.Sentence = s.Error() + ": " + fault.Sentence
			break
		}
	}
	level := slog.LevelInfo
	if fault.Code == hypervisor.FaultOther && fault.Sentinel != nil {
		level = slog.LevelDebug // the caller expects it
	}
	d.log.Log(context.Background(), level, "libvirt refused a call", "call", act, "fault", fault.Code, "err", err)
	return fault
}

// contractErrors are the sentinels that the driver itself wraps around errors of
// libvirt.
var contractErrors = []error{
	hypervisor.ErrMigrationLost, hypervisor.ErrNoDevice, hypervisor.ErrRefused, hypervisor.ErrUnavailable, hypervisor.ErrInvalid,
}

// faultOf returns the fault that libvirt's error e stands for.
func faultOf(e libvirt.Error) *hypervisor.Fault {
	sentinel := sentinelFor(e)
	if aboutState(sentinel) {
		return &hypervisor.Fault{Code: hypervisor.FaultOther, Sentence: sentinel.Error(), Sentinel: sentinel}
	}
	for _, known := range knownFaults {
		if known.says.MatchString(e.Message) {
			return &hypervisor.Fault{Code: known.code, Sentence: known.sentence, Remedy: known.remedy, Sentinel: known.sentinel}
		}
	}
	fault := &hypervisor.Fault{Code: hypervisor.FaultOther, Sentence: plainText(e.Message), Sentinel: sentinel}
	if fault.Sentence == "" {
		fault.Sentence = "the hypervisor fails without saying why"
	}
	if sentinel != nil {
		fault.Sentence = sentinel.Error() + ": " + fault.Sentence
	}
	return fault
}

// aboutState reports whether the sentinel says everything: libvirt's message would only
// add a name that the caller gave.
func aboutState(sentinel error) bool {
	for _, s := range []error{hypervisor.ErrNotFound, hypervisor.ErrNotRunning, hypervisor.ErrNoAgent, hypervisor.ErrUnavailable} {
		if errors.Is(sentinel, s) {
			return true
		}
	}
	return false
}

func sentinelFor(e libvirt.Error) error {
	switch e.Code {
	case libvirt.ERR_NO_DOMAIN:
		return hypervisor.ErrNotFound
	case libvirt.ERR_OPERATION_INVALID:
		if strings.Contains(e.Message, "not running") || strings.Contains(e.Message, "not active") {
			return hypervisor.ErrNotRunning
		}
	case libvirt.ERR_AGENT_UNRESPONSIVE, libvirt.ERR_AGENT_UNSYNCED, libvirt.ERR_AGENT_COMMAND_TIMEOUT, libvirt.ERR_AGENT_COMMAND_FAILED:
		return hypervisor.ErrNoAgent
	case libvirt.ERR_XML_ERROR, libvirt.ERR_XML_DETAIL, libvirt.ERR_XML_INVALID_SCHEMA, libvirt.ERR_CONFIG_UNSUPPORTED:
		return hypervisor.ErrInvalid
	case libvirt.ERR_OPERATION_UNSUPPORTED:
		return hypervisor.ErrUnsupported
	case libvirt.ERR_NO_CONNECT, libvirt.ERR_INVALID_CONN, libvirt.ERR_RPC:
		return hypervisor.ErrUnavailable
	case libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_SYSTEM_ERROR:
		// When a connection breaks during a call, the call ends with one of these
		// errors of the RPC or the socket layer.
		if e.Domain == libvirt.FROM_RPC || e.Domain == libvirt.FROM_REMOTE || e.Domain == libvirt.FROM_STREAMS {
			return hypervisor.ErrUnavailable
		}
	}
	return nil
}

// is reports whether err has libvirt's error code.
func is(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == code
}
