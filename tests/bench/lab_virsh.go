package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"
)

// floor is the least that starting a machine can cost: 'virsh create' of the
// same domain, with a disk, a tap and names of its own.
type floor struct {
	host *labHost
	file string
	name string
}

// copiedDisk is a disk of the pattern and its copy.
type copiedDisk struct{ from, to string }

const (
	floorName = "bench_floor"
	floorTap  = "benchfloor"
)

// prepareFloor starts a machine, takes its domain for a pattern, and prepares
// another domain like it. The machine goes again; its image stays on the host.
func (l *laboratory) prepareFloor(ctx context.Context, host *labHost) (*floor, error) {
	const pattern = "pattern"
	if _, _, err := l.startMachine(ctx, host, pattern); err != nil {
		return nil, fmt.Errorf("start a machine: %w", err)
	}
	text, err := host.shell(ctx, "virsh dumpxml --inactive --security-info "+namespace+"_"+pattern)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(l.dir, "shared", "floor")
	text, disks, err := likeness(text, dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for the domain's files: %w", err)
	}
	f := &floor{host: host, file: filepath.Join(dir, "domain.xml"), name: floorName}
	if err := os.WriteFile(f.file, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("write the domain: %w", err)
	}
	for _, d := range disks {
		if _, err := host.shell(ctx, `cp --sparse=always --preserve=mode,ownership "$1" "$2"`, d.from, d.to); err != nil {
			return nil, err
		}
	}
	if _, err := host.shell(ctx, "ip tuntap add "+floorTap+" mode tap vnet_hdr; ip link set "+floorTap+" up"); err != nil {
		return nil, err
	}
	return f, l.remove(ctx, host, pattern)
}

// likeness turns a domain's description into that of another one like it, and
// names the disks to copy for it.
func likeness(text, dir string) (string, []copiedDisk, error) {
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		return "", nil, fmt.Errorf("read the domain: %w", err)
	}
	d.Name, d.UUID, d.Metadata = floorName, uuid.NewString(), nil
	for i := range d.SysInfo {
		if s := d.SysInfo[i].SMBIOS; s != nil && s.System != nil {
			for k := range s.System.Entry {
				if s.System.Entry[k].Name == "uuid" {
					s.System.Entry[k].Value = d.UUID
				}
			}
		}
	}
	if d.Devices == nil {
		return "", nil, fmt.Errorf("the domain has no devices")
	}
	disks := moveDisks(d.Devices.Disks, dir)
	moveDevices(d.Devices, dir)
	out, err := d.Marshal()
	if err != nil {
		return "", nil, fmt.Errorf("write the domain: %w", err)
	}
	return out, disks, nil
}

// moveDisks gives the disks that are files a place of their own.
func moveDisks(disks []libvirtxml.DomainDisk, dir string) []copiedDisk {
	var copied []copiedDisk
	for i := range disks {
		source := disks[i].Source
		if source == nil || source.File == nil || source.File.File == "" {
			continue
		}
		c := copiedDisk{from: source.File.File, to: filepath.Join(dir, fmt.Sprintf("disk%d", i))}
		copied = append(copied, c)
		source.File.File = c.to
	}
	return copied
}

// moveDevices gives a domain a tap, sockets and logs of its own.
func moveDevices(devices *libvirtxml.DomainDeviceList, dir string) {
	for i := range devices.Interfaces {
		devices.Interfaces[i].MAC = nil
		if t := devices.Interfaces[i].Target; t != nil {
			t.Dev = floorTap
		}
	}
	for i := range devices.Channels {
		devices.Channels[i].Source = &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}}
	}
	for i := range devices.Serials {
		if log := devices.Serials[i].Log; log != nil {
			log.File = filepath.Join(dir, "serial.log")
		}
	}
	for i := range devices.Consoles {
		if log := devices.Consoles[i].Log; log != nil {
			log.File = filepath.Join(dir, "serial.log")
		}
	}
}

// create starts the domain, returns how long that took, and ends it again.
func (f *floor) create(ctx context.Context) (time.Duration, error) {
	out, err := f.host.shell(ctx, `
begin=$(date +%s%N)
virsh create "$1" >/dev/null
end=$(date +%s%N)
virsh destroy "$2" >/dev/null
echo $((end - begin))`, f.file, f.name)
	if err != nil {
		return 0, err
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("virsh create: %w", err)
	}
	return time.Duration(nanoseconds), nil
}
