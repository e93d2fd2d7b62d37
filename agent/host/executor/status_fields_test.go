package executor

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
	"virtmesh/agent/vmi/vmitest"
)

const statusDocument = "../../../docs/status.md"

// fullAnswer is a guest's agent that tells all it can be asked for.
var fullAnswer = hypervisor.GuestInfo{
	AgentVersion: "7.2.0", Commands: []hypervisor.GuestCommand{{Name: "guest-ping", Enabled: true}},
	Hostname: "guest", Timezone: "CET", TZOffset: 3600,
	OS: hypervisor.GuestOS{
		ID: "debian", Name: "Debian GNU/Linux", PrettyName: "Debian GNU/Linux 12", Version: "12 (bookworm)", VersionID: "12",
		KernelRelease: "6.1.0", KernelVersion: "#1 SMP", Machine: "x86_64",
	},
	Users: []hypervisor.GuestUser{{Name: "me", Domain: "here", LoginTime: 1}},
	Filesystems: []hypervisor.GuestFilesystem{{
		Mountpoint: "/", Name: "vda1", Type: "ext4", TotalBytes: 2, UsedBytes: 1,
		Disks: []hypervisor.GuestDisk{{Device: "/dev/vda1", Serial: "s1", BusType: "virtio"}},
	}},
	Interfaces: []hypervisor.GuestInterface{
		{Name: "enp1s0", MAC: testMAC, Addresses: []string{"10.0.0.5/24", "fe80::1/64"}},
		{Name: "docker0", MAC: "02:42:00:00:00:01", Addresses: []string{"172.17.0.1/16"}},
	},
}

// full returns an instance whose status has everything that one can have.
func (w *world) full() *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	mode, overhead := corev1.PersistentVolumeFilesystem, kubevirtv1.Percent("0")
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	w.volumes.claims = map[string]*kubevirtv1.PersistentVolumeClaimInfo{"data": {
		ClaimName: "data", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeMode: &mode,
		Capacity: size, Requests: size, Preallocated: true, FilesystemOverhead: &overhead,
	}}
	vmi := scheduled("full")
	vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: "data", VolumeSource: kubevirtv1.VolumeSource{
		DataVolume: &kubevirtv1.DataVolumeSource{Name: "data"}}})
	vmi.Spec.Domain.Devices.Disks = append(vmi.Spec.Domain.Devices.Disks,
		kubevirtv1.Disk{Name: "data", DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: "virtio"}}})
	vmi.Spec.AccessCredentials = []kubevirtv1.AccessCredential{{}}
	vmi.Status.PhaseTransitionTimestamps = []kubevirtv1.VirtualMachineInstancePhaseTransitionTimestamp{{Phase: kubevirtv1.Scheduled}}
	w.place(vmi)
	w.reconcile(vmi)
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	return vmi
}

// Every field of the status is filled in, or the documentation says why it is not.
func TestEveryFieldOfTheStatusIsAccountedFor(t *testing.T) {
	w := newWorld(t)
	vmi := w.full()
	w.act(w.executor.Guests().Freeze(t.Context(), vmi.Namespace, vmi.Name, 0))
	w.reconcile(vmi)
	got := w.get(vmi)
	removed := vmi.DeepCopy()
	machine.EndWithHost(removed, time.Now())
	vmitest.ReadStatusTable(t, statusDocument, "VirtualMachineInstance").Check(t, &got.Status, &removed.Status)
	info, err := w.executor.Guests().GuestOSInfo(t.Context(), vmi.Namespace, vmi.Name)
	if err != nil {
		t.Fatal(err)
	}
	vmitest.ReadStatusTable(t, statusDocument, "guestosinfo").Check(t, info)
}

func TestStatusOfAFullInstance(t *testing.T) {
	w := newWorld(t)
	got := w.get(w.full())
	s := &got.Status
	for what, ok := range map[string]bool{
		"user":               s.RuntimeUser == testUser,
		"class":              *s.QOSClass == corev1.PodQOSBurstable,
		"targets":            s.VolumeStatus[0].Target == "vda" && s.VolumeStatus[1].Target == "vdb",
		"claim":              s.VolumeStatus[0].PersistentVolumeClaimInfo == nil && s.VolumeStatus[1].PersistentVolumeClaimInfo.ClaimName == "data",
		"method":             s.MigrationMethod == kubevirtv1.BlockMigration && s.MigrationTransport == kubevirtv1.MigrationTransportUnix,
		"card":               s.Interfaces[0].InfoSource == "domain, guest-agent" && s.Interfaces[0].Name == "default",
		"the guest's card":   len(s.Interfaces) == 2 && s.Interfaces[1].InfoSource == "guest-agent" && s.Interfaces[1].Name == "" && s.Interfaces[1].IP == "172.17.0.1",
		"memory":             s.Memory.GuestAtBoot.String() == "64Mi" && s.Memory.GuestCurrent.Cmp(*s.Memory.GuestAtBoot) == 0,
		"nothing is amiss":   condition(got, kubevirtv1.VirtualMachineInstanceSynchronized) == nil,
		"there is no pause":  condition(got, kubevirtv1.VirtualMachineInstancePaused) == nil,
		"volumes are a list": len(s.VolumeStatus) == 2,
	} {
		if !ok {
			t.Errorf("%s is not as expected: %+v", what, s)
		}
	}
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceIsMigratable, corev1.ConditionFalse, "DisksNotLiveMigratable")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceIsStorageLiveMigratable, corev1.ConditionFalse, "DisksNotLiveMigratable")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceDataVolumesReady, corev1.ConditionTrue, "AllDVsReady")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceAccessCredentialsSynchronized, corev1.ConditionFalse, "AccessCredentialsNotSupported")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceAgentConnected, corev1.ConditionTrue, "")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceUnsupportedAgent, corev1.ConditionTrue, "AgentCommandsMissing")
}

// Nothing that is told is told again, by this agent of the host or by the next.
func TestAFullStatusIsWrittenOnce(t *testing.T) {
	w := newWorld(t)
	vmi := w.full()
	before := w.get(vmi).ResourceVersion
	w.hear(vmi)
	w.restart()
	w.hear(vmi)
	w.volumes.claims, w.volumes.unreadable = nil, errUnconfirmed
	w.hear(vmi)
	if got := w.get(vmi); got.ResourceVersion != before {
		t.Errorf("written again: %+v", got.Status)
	}
}

// A guest chooses how much memory its balloon holds and which cards it makes. That is
// shown, and how often is not for the guest to choose.
func TestWhatAGuestChangesIsToldSeldom(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.SetMemory(t.Context(), refOf(vmi), 32<<20))
	w.reconcile(vmi)
	if got := w.get(vmi).Status.Memory; got.GuestCurrent.Value() != 32<<20 || got.GuestAtBoot.Value() != 64<<20 || got.GuestRequested.Value() != 64<<20 {
		t.Errorf("%+v", got)
	}
	commits := w.store.Commits()
	for _, mebibytes := range []int64{33, 34, 35} {
		w.act(w.hv.SetMemory(t.Context(), refOf(vmi), mebibytes<<20))
		w.reconcile(vmi)
	}
	if n := w.store.Commits() - commits; n != 0 {
		t.Errorf("%d writes within the pause", n)
	}
	w.pass(minFlipPause)
	w.reconcile(vmi)
	if got := w.get(vmi).Status.Memory.GuestCurrent; got.Value() != 35<<20 {
		t.Errorf("the last is not told: %s", got)
	}
	info := guestAnswer
	for i := range 3 {
		info.Interfaces = append(info.Interfaces, hypervisor.GuestInterface{Name: "veth" + string(rune('0'+i)), MAC: "02:42:00:00:00:0" + string(rune('0'+i))})
		answer := info
		w.act(w.hv.Machine().SetAgent(refOf(vmi), &answer))
		w.pass(guestInfoPause)
		w.hear(vmi)
		w.pass(maxFlipPause)
		w.hear(vmi)
	}
	if cards := w.get(vmi).Status.Interfaces; len(cards) != 4 || cards[3].InterfaceName != "veth2" {
		t.Errorf("cards: %+v", cards)
	}
}

// A guest that says as much as its agent's answer can hold, of its cards and of others,
// fills no more than a few kilobytes of a status that every host keeps.
func TestWhatAGuestSaysIsBounded(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	info := fullAnswer
	info.Interfaces = nil
	for i := range 64 {
		nic := hypervisor.GuestInterface{Name: fmt.Sprintf("eth%02d", i), MAC: testMAC}
		if i%2 == 1 {
			nic.MAC = fmt.Sprintf("02:42:00:00:00:%02x", i)
		}
		for j := range 32 {
			nic.Addresses = append(nic.Addresses, fmt.Sprintf("2001:db8:%x:%x::ffff:ffff:ffff/64", i, j))
		}
		info.Interfaces = append(info.Interfaces, nic)
	}
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &info))
	w.hear(vmi)
	cards, addresses := w.get(vmi).Status.Interfaces, 0
	for _, card := range cards {
		if len(card.IPs) > maxCardAddresses+1 {
			t.Errorf("%s has %d addresses", card.InterfaceName, len(card.IPs))
		}
		addresses += len(card.IPs)
	}
	if len(cards) != 1+maxGuestCards || addresses > maxGuestAddresses+1 {
		t.Errorf("%d cards with %d addresses", len(cards), addresses)
	}
	if raw, err := json.Marshal(cards); err != nil || len(raw) > 8<<10 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// The order in which a guest lists its addresses and cards, and what it lists twice, is no
// news. What is news is told, however fast the guest changes it, once in five minutes.
func TestWhatAGuestSaysIsToldSeldom(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	say := func(info hypervisor.GuestInfo) {
		w.act(w.hv.Machine().SetAgent(refOf(vmi), &info))
		w.pass(guestInfoInterval)
		w.hear(vmi)
	}
	info := fullAnswer
	info.Interfaces = []hypervisor.GuestInterface{
		{Name: "enp1s0", MAC: testMAC, Addresses: []string{"fe80::1/64", "192.0.2.7/24", "2001:db8::7/64", "192.0.2.6/24"}},
		{Name: "br0", MAC: "02:42:00:00:00:01"}, {Name: "br0", MAC: "02:42:00:00:00:02"},
	}
	say(info)
	if got := w.get(vmi).Status.Interfaces[0].IPs; !slices.Equal(got[len(got)-4:], []string{"192.0.2.6", "192.0.2.7", "2001:db8::7", "fe80::1"}) {
		t.Errorf("addresses %v", got)
	}
	before := w.get(vmi).ResourceVersion
	again := info
	again.Interfaces = slices.Clone(info.Interfaces)
	again.Interfaces[0].Addresses = append(slices.Clone(info.Interfaces[0].Addresses), info.Interfaces[0].Addresses...)
	slices.Reverse(again.Interfaces[0].Addresses)
	slices.Reverse(again.Interfaces[1:])
	w.pass(flipQuiet)
	say(again)
	if got := w.get(vmi); got.ResourceVersion != before {
		t.Errorf("another order was written: %+v", got.Status.Interfaces)
	}
	for what, change := range map[string]func(i int){
		"system":    func(i int) { info.OS.PrettyName = fmt.Sprint("Linux ", i) },
		"addresses": func(i int) { info.Interfaces[0].Addresses = []string{fmt.Sprintf("192.0.2.%d/24", i%200)} },
		"names":     func(i int) { info.Interfaces[0].Name = fmt.Sprint("eth", i) },
	} {
		w.pass(flipQuiet)
		commits := w.store.Commits()
		const minutes = 120
		for i := range minutes {
			change(i)
			say(info)
		}
		if n := w.store.Commits() - commits; n > minutes/5+10 {
			t.Errorf("%s: %d writes in %d minutes", what, n, minutes)
		}
	}
	w.pass(maxFlipPause)
	say(info)
	if got := w.get(vmi).Status; got.GuestOSInfo.PrettyName != info.OS.PrettyName || got.Interfaces[0].InterfaceName != info.Interfaces[0].Name {
		t.Errorf("the last is not told: %+v, %+v", got.GuestOSInfo, got.Interfaces)
	}
}

// A guest that is being started is not paused, by nobody.
func TestAStartIsNoPause(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().Pause(refOf(vmi), hypervisor.ReasonStarting))
	w.reconcile(vmi)
	if c := condition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused); c != nil {
		t.Errorf("%+v", c)
	}
	w.pass(maxFlipPause)
	w.act(w.hv.Machine().Pause(refOf(vmi), hypervisor.ReasonPostcopyFailed))
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, "PausedPostcopyFailed")
}
