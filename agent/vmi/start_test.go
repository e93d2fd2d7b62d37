package vmi

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// spelled out are the defaults of flags in other words, and other spellings of the same
// amount: none of them is another machine.
var spelledOut = map[string]func(*spec){
	"pod interface":    devices(func(d *kubevirtv1.Devices) { d.AutoattachPodInterface = new(true) }),
	"graphics":         devices(func(d *kubevirtv1.Devices) { d.AutoattachGraphicsDevice = new(true) }),
	"serial console":   devices(func(d *kubevirtv1.Devices) { d.AutoattachSerialConsole = new(true) }),
	"balloon":          devices(func(d *kubevirtv1.Devices) { d.AutoattachMemBalloon = new(true) }),
	"no input":         devices(func(d *kubevirtv1.Devices) { d.AutoattachInputDevice = new(false) }),
	"no vsock":         devices(func(d *kubevirtv1.Devices) { d.AutoattachVSOCK = new(false) }),
	"one queue a disk": devices(func(d *kubevirtv1.Devices) { d.BlockMultiQueue = new(false) }),
	"one queue a card": devices(func(d *kubevirtv1.Devices) { d.NetworkInterfaceMultiQueue = new(false) }),
	"new virtio":       devices(func(d *kubevirtv1.Devices) { d.UseVirtioTransitional = new(false) }),
	"TPM":              devices(func(d *kubevirtv1.Devices) { d.TPM.Enabled, d.TPM.Persistent = new(true), new(false) }),
	"EFI": func(s *spec) {
		s.Domain.Firmware.Bootloader.EFI = &kubevirtv1.EFI{SecureBoot: new(true), Persistent: new(false)}
	},
	"disk":       disk(func(d *kubevirtv1.Disk) { d.DedicatedIOThread, d.Shareable = new(false), new(false) }),
	"CD-ROM":     devices(func(d *kubevirtv1.Devices) { d.Disks[1].CDRom.ReadOnly = new(true) }),
	"feature":    func(s *spec) { s.Domain.CPU.Features[0].Policy = "require" },
	"topology":   func(s *spec) { s.Domain.CPU.Sockets, s.Domain.CPU.Threads = 1, 1 },
	"model":      func(s *spec) { s.Domain.CPU.Model = kubevirtv1.DefaultCPUModel },
	"memory":     func(s *spec) { s.Domain.Memory.Guest = quantityOf("134217728") },
	"page":       func(s *spec) { s.Domain.Memory.Hugepages.PageSize = "2048Ki" },
	"page bytes": func(s *spec) { s.Domain.Memory.Hugepages.PageSize = "2097152" },
	"CPU limit":  func(s *spec) { s.Domain.Resources.Limits = corev1.ResourceList{"cpu": *quantityOf("2000m")} },

	"selector":    func(s *spec) { s.NodeSelector = map[string]string{"disk": "ssd"} },
	"affinity":    func(s *spec) { s.Affinity = &corev1.Affinity{} },
	"tolerations": func(s *spec) { s.Tolerations = []corev1.Toleration{{Key: "a"}} },
	"spread":      func(s *spec) { s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1}} },
	"eviction":    func(s *spec) { s.EvictionStrategy = new(kubevirtv1.EvictionStrategyNone) },
	"one paused":  func(s *spec) { s.StartStrategy = new(kubevirtv1.StartStrategyPaused) },
}

// others are other machines: a guest must be started again to become one of them.
var others = map[string]func(*spec){
	"no graphics":       devices(func(d *kubevirtv1.Devices) { d.AutoattachGraphicsDevice = new(false) }),
	"no console":        devices(func(d *kubevirtv1.Devices) { d.AutoattachSerialConsole = new(false) }),
	"no balloon":        devices(func(d *kubevirtv1.Devices) { d.AutoattachMemBalloon = new(false) }),
	"an input":          devices(func(d *kubevirtv1.Devices) { d.AutoattachInputDevice = new(true) }),
	"vsock":             devices(func(d *kubevirtv1.Devices) { d.AutoattachVSOCK = new(true) }),
	"queues of disks":   devices(func(d *kubevirtv1.Devices) { d.BlockMultiQueue = new(true) }),
	"queues of cards":   devices(func(d *kubevirtv1.Devices) { d.NetworkInterfaceMultiQueue = new(true) }),
	"old virtio":        devices(func(d *kubevirtv1.Devices) { d.UseVirtioTransitional = new(true) }),
	"a TPM that is off": devices(func(d *kubevirtv1.Devices) { d.TPM.Enabled = new(false) }),
	"a TPM that lasts":  devices(func(d *kubevirtv1.Devices) { d.TPM.Persistent = new(true) }),
	"no secure boot":    func(s *spec) { s.Domain.Firmware.Bootloader.EFI.SecureBoot = new(false) },
	"EFI that lasts":    func(s *spec) { s.Domain.Firmware.Bootloader.EFI.Persistent = new(true) },
	"a disk's thread":   disk(func(d *kubevirtv1.Disk) { d.DedicatedIOThread = new(true) }),
	"a shared disk":     disk(func(d *kubevirtv1.Disk) { d.Shareable = new(true) }),
	"a writable CD":     devices(func(d *kubevirtv1.Devices) { d.Disks[1].CDRom.ReadOnly = new(false) }),
	"a feature less":    func(s *spec) { s.Domain.CPU.Features[0].Policy = "disable" },
	"a socket more":     func(s *spec) { s.Domain.CPU.Sockets = 2 },
	"more memory":       func(s *spec) { s.Domain.Memory.Guest = quantityOf("256Mi") },
	"larger pages":      func(s *spec) { s.Domain.Memory.Hugepages.PageSize = "4Mi" },
	"no TPM":            devices(func(d *kubevirtv1.Devices) { d.TPM = nil }),
	"another UUID":      func(s *spec) { s.Domain.Firmware.UUID = "5d307ca9-b3ef-428c-8861-06e72d69f223" },
	"another hostname":  func(s *spec) { s.Hostname = "other" },
}

// plain is an instance whose flags say nothing.
func plain(t *testing.T) *kubevirtv1.VirtualMachineInstance {
	t.Helper()
	vmi := instance(t)
	s := &vmi.Spec
	s.Domain.CPU.Features[0].Policy = ""
	s.Domain.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: "2Mi"}
	s.Domain.Devices.TPM = &kubevirtv1.TPMDevice{}
	s.Domain.Resources = kubevirtv1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": *quantityOf("2")}}
	smm(nil, func(s *spec) { s.Domain.Firmware.Bootloader.EFI.SecureBoot = nil })(s)
	return vmi
}

func TestARestartIsAskedForOnlyForAnotherMachine(t *testing.T) {
	same := func(edit func(*spec)) (forth, back bool) {
		a, b := plain(t), plain(t)
		edit(&b.Spec)
		before := b.DeepCopy()
		forth, back = defaults().SameAtStart(a, b), defaults().SameAtStart(b, a)
		if !reflect.DeepEqual(b, before) || !reflect.DeepEqual(a, plain(t)) {
			t.Error("the instances were changed")
		}
		return forth, back
	}
	for name, edit := range spelledOut {
		if forth, back := same(edit); !forth || !back {
			t.Errorf("%s, spelled out, is another machine", name)
		}
	}
	for name, edit := range others {
		if forth, back := same(edit); forth || back {
			t.Errorf("%s is no other machine", name)
		}
	}
}

// What takes effect while a guest runs is copied, and no more.
func TestLiveFieldsAreThoseThatAskForNoRestart(t *testing.T) {
	for _, group := range []map[string]func(*spec){spelledOut, others} {
		for name, edit := range group {
			from, to := plain(t), plain(t)
			edit(&from.Spec)
			CopyLiveFields(&from.Spec, &to.Spec)
			live := reflect.DeepEqual(from.Spec, to.Spec)
			want := name == "selector" || name == "affinity" || name == "tolerations" || name == "spread" || name == "eviction"
			if live != want {
				t.Errorf("%s: copied to the running guest: %v, want %v", name, live, want)
			}
		}
	}
}

// A changed setting of the mesh asks no running machine to restart, and a changed
// manifest does.
func TestSettingsAreKeptWhereTheMeshChose(t *testing.T) {
	for name, c := range map[string]struct {
		template func(*spec)
		same     bool
	}{
		"the mesh chose":         {func(*spec) {}, true},
		"no CPU, no memory":      {func(s *spec) { s.Domain.CPU, s.Domain.Memory = nil, nil }, true},
		"the template's sockets": {func(s *spec) { s.Domain.CPU.MaxSockets = 8 }, false},
		"the template's memory":  {func(s *spec) { s.Domain.Memory.MaxGuest = quantityOf("32Gi") }, false},
		"the template's model":   {func(s *spec) { s.Domain.CPU.Model = "Haswell" }, false},
	} {
		template := instance(t)
		template.Spec.Domain.Resources = kubevirtv1.ResourceRequirements{Requests: memoryList("2Gi")}
		template.Spec.Domain.Memory.Guest = quantityOf("2Gi")
		running := template.DeepCopy()
		if c.template(&template.Spec); template.Spec.Domain.CPU == nil {
			running = template.DeepCopy()
		}
		SetNewInstance(defaults(), running, time.Now())
		later := defaults()
		later.MaxHotplugRatio, later.CPUModel = 2, "EPYC"
		want := template.DeepCopy()
		later.SetInstance(want)
		if later.SameAtStart(want, running) {
			t.Fatalf("%s: the setting makes no difference", name)
		}
		KeepSettings(&template.Spec, &want.Spec, &running.Spec)
		if got := later.SameAtStart(want, running); got != c.same {
			t.Errorf("%s: the same machine: %v, want %v", name, got, c.same)
		}
	}
	// A running instance that an older version has left without either changes nothing.
	want := instance(t)
	SetNewInstance(defaults(), want, time.Now())
	before := want.DeepCopy()
	KeepSettings(&spec{}, &want.Spec, &spec{})
	if !reflect.DeepEqual(want, before) {
		t.Error("room was taken from an instance that has none")
	}
}

func TestAMachineKeepsItsIdentity(t *testing.T) {
	var first, second spec
	NewIdentity(&first)
	NewIdentity(&second)
	a, b := first.Domain.Firmware, second.Domain.Firmware
	for _, id := range []string{string(a.UUID), a.Serial, string(b.UUID), b.Serial} {
		if _, err := uuid.Parse(id); err != nil {
			t.Errorf("%q is no UUID", id)
		}
	}
	if a.UUID == b.UUID || a.Serial == b.Serial {
		t.Error("two machines have one identity")
	}
	given := spec{}
	given.Domain.Firmware = &kubevirtv1.Firmware{UUID: "u", Serial: "s"}
	NewIdentity(&given)
	KeepIdentity(&given, &first)
	if f := given.Domain.Firmware; f.UUID != "u" || f.Serial != "s" {
		t.Errorf("an identity that was given became %+v", f)
	}
	// A manifest that is applied again without an identity is the same machine.
	var again spec
	KeepIdentity(&again, &first)
	if !reflect.DeepEqual(again.Domain.Firmware, a) {
		t.Errorf("became %+v, was %+v", again.Domain.Firmware, a)
	}
	var nothing spec
	if KeepIdentity(&nothing, &spec{}); nothing.Domain.Firmware != nil {
		t.Errorf("nothing became %+v", nothing.Domain.Firmware)
	}
	// Without a VirtualMachine the name decides, so that it is the same at each start.
	var once, twice spec
	SetIdentity(&once, "vm")
	SetIdentity(&twice, "vm")
	if f := once.Domain.Firmware; f.UUID != FirmwareUUID("vm") || f.Serial != string(f.UUID) || !reflect.DeepEqual(once, twice) {
		t.Errorf("identities %+v and %+v", once.Domain.Firmware, twice.Domain.Firmware)
	}
	SetIdentity(&given, "vm")
	if f := given.Domain.Firmware; f.UUID != "u" || f.Serial != "s" {
		t.Errorf("an identity that was given became %+v", f)
	}
}

// A LUN needs SCSI commands, and other disks a bus that every guest of the
// architecture knows.
func TestDisksGetABus(t *testing.T) {
	for arch, want := range map[string]kubevirtv1.DiskBus{"amd64": "sata", "arm64": "virtio"} {
		s := spec{Architecture: arch}
		s.Domain.Devices.Disks = []kubevirtv1.Disk{
			{DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{}}}, {DiskDevice: kubevirtv1.DiskDevice{CDRom: &kubevirtv1.CDRomTarget{}}},
			{DiskDevice: kubevirtv1.DiskDevice{LUN: &kubevirtv1.LunTarget{}}}, {DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: "usb"}}},
			{DiskDevice: kubevirtv1.DiskDevice{LUN: &kubevirtv1.LunTarget{Bus: "virtio"}}},
		}
		setDiskBuses(&s)
		d := s.Domain.Devices.Disks
		if d[0].Disk.Bus != want || d[1].CDRom.Bus != want || d[2].LUN.Bus != "scsi" || d[3].Disk.Bus != "usb" || d[4].LUN.Bus != "virtio" {
			t.Errorf("%s: %+v", arch, d)
		}
	}
}

// A name that is cut still says what it is of, and differs from all others.
func TestLongNamesAreCutToTheLimit(t *testing.T) {
	long := strings.Repeat("a", 21)
	short, other := BoundedName(long, 20), BoundedName(long[1:]+"b", 20)
	if len(short) != 20 || !strings.HasPrefix(short, "aaa-") {
		t.Errorf("cut to %q", short)
	}
	if short == other || short == BoundedName(long+"a", 20) {
		t.Errorf("%q and %q are names of different objects", short, other)
	}
	// Files on hosts have such names: the next version must find them.
	if want := "aaa-7df8e299c834de19"; short != want {
		t.Errorf("cut to %q, which versions before have cut to %q", short, want)
	}
}
