package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/guests"
)

// Guests reaches the guests that run on this host. It serves the requests of
// package guests.
type Guests struct{ executor *Executor }

var _ guests.Instances = Guests{}

// Guests returns a Guests that reaches the guests of this executor's host.
func (e *Executor) Guests() Guests { return Guests{e} }

// find returns the domain of an instance on this host.
func (g Guests) find(ctx context.Context, namespace, name string) (hypervisor.Domain, error) {
	key := objects.Key{Namespace: namespace, Name: name}
	vmi, ok := g.executor.Instances.Get(key)
	if !ok {
		return hypervisor.Domain{}, fault.New(fault.NotFound, "instance %s: %w", key, fault.NotFound).About(key.String())
	}
	domain, err := g.executor.Hypervisor.Get(ctx, domain.Ref(vmi))
	if err != nil {
		return hypervisor.Domain{}, translate(key, err)
	}
	if !domain.State.Active() {
		return hypervisor.Domain{}, translate(key, hypervisor.ErrNotRunning)
	}
	return domain, nil
}

// codeOf returns the code by which other hosts and users know an error of the
// hypervisor.
func codeOf(err error) fault.Code {
	for _, known := range []struct {
		err  error
		code fault.Code
	}{
		// The instance exists, so a domain that does not is a guest that does not run.
		{hypervisor.ErrNotFound, fault.NotRunning},
		{hypervisor.ErrNotRunning, fault.NotRunning},
		{hypervisor.ErrNoAgent, fault.NoGuestAgent},
		{hypervisor.ErrNoDevice, fault.Invalid},
		{hypervisor.ErrInvalid, fault.Invalid},
		{hypervisor.ErrUnsupported, fault.Conflict},
		{hypervisor.ErrRefused, fault.Conflict},
		{hypervisor.ErrConflict, fault.Conflict},
		{hypervisor.ErrRunning, fault.Conflict},
		{hypervisor.ErrMigrationLost, fault.Internal},
		{hypervisor.ErrUnavailable, fault.Unavailable},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return fault.CodeOf(err)
}

// translate turns an error of the hypervisor about an instance into a fault.
func translate(key objects.Key, err error) error {
	code := codeOf(err)
	switch code {
	case fault.NotRunning, fault.NoGuestAgent:
		return fault.New(code, "instance %s: %w", key, code).About(key.String())
	}
	var known *hypervisor.Fault
	if errors.As(err, &known) {
		told := fault.New(code, "instance %s: %w", key, err).About(key.String())
		told.Sentence, told.Remedy = fmt.Sprintf("instance %s: %s", key, known.Sentence), known.Remedy
		return told
	}
	return fault.New(code, "instance %s: %w", key, err).About(key.String())
}

// Stream implements guests.Instances.
func (g Guests) Stream(ctx context.Context, namespace, name string, kind guests.StreamKind) (io.ReadWriteCloser, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	var stream io.ReadWriteCloser
	switch kind {
	case guests.Console:
		stream, err = g.executor.consoles.openSession(domain.Owner.UID, func() (io.ReadWriteCloser, error) {
			return g.executor.Hypervisor.Console(ctx, domain.Owner.Ref)
		})
	case guests.VNC:
		stream, err = g.executor.Hypervisor.VNC(ctx, domain.Owner.Ref)
	default:
		return nil, fault.New(fault.Invalid, "unknown stream kind %q", kind)
	}
	if err != nil {
		return nil, translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return stream, nil
}

// Pause implements guests.Instances.
func (g Guests) Pause(ctx context.Context, namespace, name string) error {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if domain.State == hypervisor.StatePaused {
		return fault.New(fault.Conflict, "instance %s/%s is already paused", namespace, name).About(namespace + "/" + name)
	}
	if err := g.executor.Hypervisor.Suspend(ctx, domain.Owner.Ref); err != nil {
		return translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return nil
}

// Unpause implements guests.Instances.
func (g Guests) Unpause(ctx context.Context, namespace, name string) error {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if domain.State != hypervisor.StatePaused {
		return fault.New(fault.Conflict, "instance %s/%s is not paused", namespace, name).About(namespace + "/" + name)
	}
	if err := g.executor.Hypervisor.Resume(ctx, domain.Owner.Ref); err != nil {
		return translate(objects.Key{Namespace: namespace, Name: name}, err)
	}
	return nil
}

// guest asks the guest agent of an instance.
func (g Guests) guest(ctx context.Context, namespace, name string) (hypervisor.GuestInfo, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	key := objects.Key{Namespace: namespace, Name: name}
	if !domain.AgentConnected {
		return hypervisor.GuestInfo{}, translate(key, hypervisor.ErrNoAgent)
	}
	info, err := g.executor.agents.awaitAnswer(ctx, domain.Owner.Ref)
	if err != nil {
		return hypervisor.GuestInfo{}, translate(key, err)
	}
	return info, nil
}

// GuestOSInfo implements guests.Instances.
func (g Guests) GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	info, err := g.guest(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	answer := &kubevirtv1.VirtualMachineInstanceGuestAgentInfo{
		Hostname: info.Hostname,
		Timezone: fmt.Sprintf("%s, %d", info.Timezone, info.TZOffset),
		OS:       guestOS(info.OS), GAVersion: info.AgentVersion,
	}
	answer.APIVersion, answer.Kind = kubevirtv1.GroupVersion.String(), "VirtualMachineInstanceGuestAgentInfo"
	for _, command := range info.Commands {
		answer.SupportedCommands = append(answer.SupportedCommands, kubevirtv1.GuestAgentCommandInfo{Name: command.Name, Enabled: command.Enabled})
	}
	for _, user := range info.Users {
		answer.UserList = append(answer.UserList, guestUser(user))
	}
	for _, fs := range info.Filesystems {
		answer.FSInfo.Filesystems = append(answer.FSInfo.Filesystems, guestFilesystem(fs))
	}
	return answer, nil
}

// Users implements guests.Instances.
func (g Guests) Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	info, err := g.guest(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	list := &kubevirtv1.VirtualMachineInstanceGuestOSUserList{}
	for _, user := range info.Users {
		list.Items = append(list.Items, guestUser(user))
	}
	return list, nil
}

// Filesystems implements guests.Instances.
func (g Guests) Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	info, err := g.guest(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	list := &kubevirtv1.VirtualMachineInstanceFileSystemList{}
	for _, fs := range info.Filesystems {
		list.Items = append(list.Items, guestFilesystem(fs))
	}
	return list, nil
}

func guestUser(user hypervisor.GuestUser) kubevirtv1.VirtualMachineInstanceGuestOSUser {
	return kubevirtv1.VirtualMachineInstanceGuestOSUser{UserName: user.Name, Domain: user.Domain, LoginTime: user.LoginTime}
}

func guestFilesystem(fs hypervisor.GuestFilesystem) kubevirtv1.VirtualMachineInstanceFileSystem {
	out := kubevirtv1.VirtualMachineInstanceFileSystem{
		DiskName: fs.Name, MountPoint: fs.Mountpoint, FileSystemType: fs.Type,
		UsedBytes: int(min(fs.UsedBytes, math.MaxInt)), TotalBytes: int(min(fs.TotalBytes, math.MaxInt)),
	}
	for _, disk := range fs.Disks {
		out.Disk = append(out.Disk, kubevirtv1.VirtualMachineInstanceFileSystemDisk{Serial: disk.Serial, BusType: disk.BusType})
	}
	return out
}
