package libvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
)

// file makes a file for guests, unless its name says that it is to be missing.
func (d *daemon) file(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if strings.HasSuffix(name, hypervisortest.MissingSuffix) {
		return path
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (d *daemon) dataDisk(t *testing.T, name string) string {
	return fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>
<target dev='vdb' bus='virtio'/><alias name='ua-%s'/></disk>`, d.file(t, name), name)
}

func (d *daemon) medium(t *testing.T) (device, word string) {
	path := d.file(t, "medium.iso")
	return fmt.Sprintf(`<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='%s'/>
<target dev='sda' bus='sata'/><readonly/><alias name='ua-%s'/></disk>`, path, hypervisortest.Drive), path
}

func (d *daemon) firmwareXML(t *testing.T, owner hypervisor.Owner) string {
	xml := d.guestXML(t, owner)
	xml = strings.Replace(xml, "<os>", "<os firmware='efi'><firmware><feature enabled='no' name='secure-boot'/></firmware>", 1)
	xml = strings.Replace(xml, "<boot dev='hd'/>", "", 1)
	return strings.Replace(xml, "</devices>", "<tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'/></tpm></devices>", 1)
}

func (d *daemon) firmwareState(t *testing.T, owner hypervisor.Owner) (nvram, tpm bool) {
	t.Helper()
	exists := func(path ...string) bool {
		_, err := os.Stat(filepath.Join(append([]string{d.cfg.Dir, "lib"}, path...)...))
		return err == nil
	}
	return exists("qemu", "nvram", owner.DomainName()+"_VARS.fd"), exists("swtpm", owner.UID, "tpm2", "tpm2-00.permall")
}

func (d *daemon) beginBlockCopy(t *testing.T, ref hypervisor.Ref) {
	t.Helper()
	target := filepath.Join(d.dir, ref.UID+".copy")
	d.virsh(t, "blockcopy", ref.DomainName(), "vda", "--dest", target, "--format", "raw", "--transient-job", "--bandwidth", "1", "--bytes")
	t.Cleanup(func() { _ = os.Remove(target) })
}
