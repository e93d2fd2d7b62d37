package libvirt

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/plain"
)

// Bounds of what is kept of the answers of a guest agent.
const (
	maxGuestString    = 256
	maxGuestUsers     = 100
	maxGuestFS        = 100
	maxGuestDisks     = 32
	maxGuestNICs      = 64
	maxGuestAddresses = 32
	maxGuestCommands  = 256
	maxAgentAnswer    = 128 << 10
)

// guestInfoTypes are queried one by one, so that an agent that lacks one of the
// commands still answers the others.
var guestInfoTypes = []libvirt.DomainGuestInfoTypes{
	libvirt.DOMAIN_GUEST_INFO_OS,
	libvirt.DOMAIN_GUEST_INFO_HOSTNAME,
	libvirt.DOMAIN_GUEST_INFO_TIMEZONE,
	libvirt.DOMAIN_GUEST_INFO_USERS,
	libvirt.DOMAIN_GUEST_INFO_FILESYSTEM,
	libvirt.DOMAIN_GUEST_INFO_INTERFACES,
}

// GuestInfo implements hypervisor.Observer.
func (d *Driver) GuestInfo(ctx context.Context, ref hypervisor.Ref) (hypervisor.GuestInfo, error) {
	return onDomain(ctx, d, d.agents, "ask guest agent of", ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.GuestInfo, error) {
		// By default libvirt waits without a limit, and blocks other changes of the
		// domain meanwhile.
		if err := dom.AgentSetResponseTimeout(int(d.cfg.AgentTimeout.Seconds()), 0); err != nil {
			return hypervisor.GuestInfo{}, err
		}
		var out hypervisor.GuestInfo
		answered := false
		for _, kind := range guestInfoTypes {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			info, err := dom.GetGuestInfo(kind, 0)
			switch {
			case err == nil:
				answered = true
				mergeGuestInfo(&out, kind, info)
			case is(err, libvirt.ERR_AGENT_UNRESPONSIVE), is(err, libvirt.ERR_OPERATION_INVALID), is(err, libvirt.ERR_AGENT_COMMAND_TIMEOUT):
				// The other questions would fail too.
				if !answered {
					return out, err
				}
				return out, nil
			default:
				d.log.Debug("a guest agent refused a question", "instance", ref.String(), "question", kind, "err", err)
			}
		}
		if answered {
			d.askAgentItself(ref, dom, &out)
		}
		if !answered {
			return out, fmt.Errorf("%w: it answers none of the questions", hypervisor.ErrNoAgent)
		}
		return out, nil
	})
}

// askAgentItself adds the agent's version and commands, for which libvirt has no call
// of its own. If the agent does not answer, its other answers still count.
func (d *Driver) askAgentItself(ref hypervisor.Ref, dom *libvirt.Domain, out *hypervisor.GuestInfo) {
	timeout := libvirt.DomainQemuAgentCommandTimeout(d.cfg.AgentTimeout.Seconds())
	answer, err := dom.QemuAgentCommand(`{"execute":"guest-info"}`, timeout, 0)
	if err == nil {
		err = mergeAgentInfo(out, answer)
	}
	if err != nil {
		d.log.Debug("a guest agent did not say its version and commands", "instance", ref.String(), "err", err)
	}
}

// mergeAgentInfo adds the agent's answer to the command guest-info to out, within the
// bounds.
func mergeAgentInfo(out *hypervisor.GuestInfo, answer string) error {
	if len(answer) > maxAgentAnswer {
		out.Truncated = true
		return fmt.Errorf("the answer has %d bytes", len(answer))
	}
	var info struct {
		Return struct {
			Version  string `json:"version"`
			Commands []struct {
				Name    string `json:"name"`
				Enabled bool   `json:"enabled"`
			} `json:"supported_commands"`
		} `json:"return"`
	}
	if err := json.Unmarshal([]byte(answer), &info); err != nil {
		return fmt.Errorf("read the answer to guest-info: %w", err)
	}
	out.AgentVersion = bounded(out, info.Return.Version)
	for _, c := range limit(out, info.Return.Commands, maxGuestCommands) {
		out.Commands = append(out.Commands, hypervisor.GuestCommand{Name: bounded(out, c.Name), Enabled: c.Enabled})
	}
	return nil
}

// mergeGuestInfo adds the answer to the question kind to out, within the bounds. The
// bindings leave the parts of other questions empty.
func mergeGuestInfo(out *hypervisor.GuestInfo, kind libvirt.DomainGuestInfoTypes, info *libvirt.DomainGuestInfo) {
	switch kind {
	case libvirt.DOMAIN_GUEST_INFO_OS:
		out.OS = guestOS(out, info.OS)
	case libvirt.DOMAIN_GUEST_INFO_HOSTNAME:
		out.Hostname = bounded(out, info.Hostname)
	case libvirt.DOMAIN_GUEST_INFO_TIMEZONE:
		out.Timezone = bounded(out, info.TimeZone.Name)
		out.TZOffset = info.TimeZone.Offset
	}
	for _, u := range limit(out, info.Users, maxGuestUsers) {
		out.Users = append(out.Users, hypervisor.GuestUser{
			Name: bounded(out, u.Name), Domain: bounded(out, u.Domain),
			LoginTime: float64(u.LoginTime) / 1000,
		})
	}
	for _, f := range limit(out, info.FileSystems, maxGuestFS) {
		out.Filesystems = append(out.Filesystems, guestFilesystem(out, f))
	}
	for _, n := range limit(out, info.Interfaces, maxGuestNICs) {
		out.Interfaces = append(out.Interfaces, guestInterface(out, n))
	}
}

func guestOS(out *hypervisor.GuestInfo, o *libvirt.DomainGuestInfoOS) hypervisor.GuestOS {
	return hypervisor.GuestOS{
		ID: bounded(out, o.ID), Name: bounded(out, o.Name), PrettyName: bounded(out, o.PrettyName),
		Version: bounded(out, o.Version), VersionID: bounded(out, o.VersionID),
		KernelRelease: bounded(out, o.KernelRelease), KernelVersion: bounded(out, o.KernelVersion),
		Machine: bounded(out, o.Machine),
	}
}

func guestFilesystem(out *hypervisor.GuestInfo, f libvirt.DomainGuestInfoFileSystem) hypervisor.GuestFilesystem {
	fs := hypervisor.GuestFilesystem{
		Mountpoint: bounded(out, f.MountPoint), Name: bounded(out, f.Name), Type: bounded(out, f.FSType),
		TotalBytes: f.TotalBytes, UsedBytes: f.UsedBytes,
	}
	for _, d := range limit(out, f.Disks, maxGuestDisks) {
		fs.Disks = append(fs.Disks, hypervisor.GuestDisk{
			Device: bounded(out, d.Device), Serial: bounded(out, d.Serial), BusType: busType(d.Alias),
		})
	}
	return fs
}

// busType derives the bus from the disk's name in the domain. The agent's own answer
// cannot be trusted.
func busType(target string) string {
	switch {
	case strings.HasPrefix(target, "vd"):
		return "virtio"
	case strings.HasPrefix(target, "sd"):
		return "scsi"
	}
	return ""
}

func guestInterface(out *hypervisor.GuestInfo, n libvirt.DomainGuestInfoInterface) hypervisor.GuestInterface {
	nic := hypervisor.GuestInterface{Name: bounded(out, n.Name)}
	if mac, err := net.ParseMAC(n.Hwaddr); err == nil {
		nic.MAC = mac.String()
	}
	for _, a := range limit(out, n.Addrs, maxGuestAddresses) {
		if ip := net.ParseIP(a.Addr); ip != nil && a.Prefix <= 128 {
			nic.Addresses = append(nic.Addresses, ip.String()+"/"+strconv.FormatUint(uint64(a.Prefix), 10))
		}
	}
	return nic
}

// bounded makes a string of a guest safe to store and to show, and limits its length.
func bounded(out *hypervisor.GuestInfo, s string) string {
	if len(s) > maxGuestString {
		s = s[:maxGuestString]
		out.Truncated = true
	}
	return plain.Text(s)
}

func limit[T any](out *hypervisor.GuestInfo, items []T, most int) []T {
	if len(items) > most {
		out.Truncated = true
		return items[:most]
	}
	return items
}
