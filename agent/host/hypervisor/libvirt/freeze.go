package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// freezeTimeout bounds how long a guest may take to write what it holds back and to freeze
// its file systems.
const freezeTimeout = 20 * time.Second

// frozen is what a guest's agent answers when the file systems are frozen.
const frozen = "frozen"

// fileSystems are those of one guest, as its agent offers them.
type fileSystems struct {
	// status is "frozen" or "thawed".
	status       func() (string, error)
	freeze, thaw func() error
}

// Freeze implements hypervisor.Freezer.
func (d *Driver) Freeze(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.freezes, "freeze the file systems of", ref, func(dom *libvirt.Domain) error {
		end, err := d.beginFreeze(ref)
		if err != nil {
			return err
		}
		defer end()
		fs, err := d.fileSystemsOf(dom)
		if err != nil {
			return err
		}
		return fs.freezeAll()
	})
}

// Thaw implements hypervisor.Freezer.
func (d *Driver) Thaw(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.agents, "thaw the file systems of", ref, func(dom *libvirt.Domain) error {
		end, err := d.beginFreeze(ref)
		if err != nil {
			return err
		}
		defer end()
		fs, err := d.fileSystemsOf(dom)
		if err != nil {
			return err
		}
		return fs.thawAll()
	})
}

// beginFreeze refuses to freeze or thaw a guest that is being frozen or thawed, until end is called.
// A caller that does not wait any more does not end its call: without this, those who ask again
// about one guest that hangs would take the whole lane.
func (d *Driver) beginFreeze(ref hypervisor.Ref) (end func(), err error) {
	if _, busy := d.freezing.LoadOrStore(ref.UID, true); busy {
		return nil, fmt.Errorf("%w: its file systems are being frozen or thawed already", hypervisor.ErrRefused)
	}
	return func() { d.freezing.Delete(ref.UID) }, nil
}

func (d *Driver) fileSystemsOf(dom *libvirt.Domain) (fileSystems, error) {
	if active, err := dom.IsActive(); err != nil || !active {
		return fileSystems{}, orNotRunning(err)
	}
	if err := dom.AgentSetResponseTimeout(int(freezeTimeout.Seconds()), 0); err != nil {
		return fileSystems{}, err
	}
	return fileSystems{
		status: func() (string, error) {
			timeout := libvirt.DomainQemuAgentCommandTimeout(d.cfg.AgentTimeout.Seconds())
			answer, err := dom.QemuAgentCommand(`{"execute":"guest-fsfreeze-status"}`, timeout, 0)
			if err != nil {
				return "", err
			}
			return freezeStatus(answer)
		},
		freeze: func() error { return dom.FSFreeze(nil, 0) },
		thaw:   func() error { return dom.FSThaw(nil, 0) },
	}, nil
}

// freezeStatus reads an agent's answer to the question whether file systems are frozen.
func freezeStatus(answer string) (string, error) {
	if len(answer) > maxAgentAnswer {
		return "", fmt.Errorf("the answer has %d bytes", len(answer))
	}
	var status struct {
		Return string `json:"return"`
	}
	if err := json.Unmarshal([]byte(answer), &status); err != nil {
		return "", fmt.Errorf("read the answer to guest-fsfreeze-status: %w", err)
	}
	return status.Return, nil
}

// freezeAll freezes the file systems unless they are frozen. A guest that was too slow may
// freeze them after it was given up, so they are thawed then.
func (fs fileSystems) freezeAll() error {
	status, err := fs.status()
	if err != nil {
		return refusedByAgent(err)
	}
	if status == frozen {
		return nil
	}
	if err := fs.freeze(); err != nil {
		if thawErr := fs.thaw(); thawErr != nil {
			return refusedByAgent(fmt.Errorf("%w (and then to thaw: %w)", err, thawErr))
		}
		return refusedByAgent(err)
	}
	return nil
}

// thawAll thaws the file systems unless they are thawed: the agent would run its hooks again.
func (fs fileSystems) thawAll() error {
	if status, err := fs.status(); err == nil && status != frozen {
		return nil
	}
	return refusedByAgent(fs.thaw())
}

// refusedByAgent returns the error of a guest that answers and does not do it, which libvirt
// reports like an agent that is not there.
func refusedByAgent(err error) error {
	var e libvirt.Error
	if errors.As(err, &e) && e.Code == libvirt.ERR_AGENT_COMMAND_FAILED {
		return fmt.Errorf("%w: %s", hypervisor.ErrRefused, plainText(e.Message))
	}
	return err
}
