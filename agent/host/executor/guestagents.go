package executor

import (
	"context"
	"fmt"
	"math"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
)

// guest asks the guest agent of an instance.
func (g Guests) guest(ctx context.Context, namespace, name string) (hypervisor.GuestInfo, hypervisor.Domain, error) {
	domain, err := g.find(ctx, namespace, name)
	if err != nil {
		return hypervisor.GuestInfo{}, domain, err
	}
	key := objects.Key{Namespace: namespace, Name: name}
	if !domain.AgentConnected {
		return hypervisor.GuestInfo{}, domain, translate(key, hypervisor.ErrNoAgent)
	}
	info, err := g.executor.agents.awaitAnswer(ctx, domain.Owner.Ref)
	if err != nil {
		return hypervisor.GuestInfo{}, domain, translate(key, err)
	}
	return info, domain, nil
}

// GuestOSInfo implements guests.GuestAgents.
func (g Guests) GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	info, domain, err := g.guest(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	answer := &kubevirtv1.VirtualMachineInstanceGuestAgentInfo{
		Hostname: info.Hostname,
		Timezone: fmt.Sprintf("%s, %d", info.Timezone, info.TZOffset),
		OS:       guestOS(info.OS), GAVersion: info.AgentVersion, FSFreezeStatus: shownFreeze(domain),
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

// Users implements guests.GuestAgents.
func (g Guests) Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	info, _, err := g.guest(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	list := &kubevirtv1.VirtualMachineInstanceGuestOSUserList{}
	for _, user := range info.Users {
		list.Items = append(list.Items, guestUser(user))
	}
	return list, nil
}

// Filesystems implements guests.GuestAgents.
func (g Guests) Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	info, _, err := g.guest(ctx, namespace, name)
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
