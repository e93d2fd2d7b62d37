package place

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

const zoneLabel = corev1.LabelTopologyZone

// host returns a healthy host with room for about four small instances.
func host(name string, edit ...func(*Host)) Host {
	h := Host{
		Name: name, KVM: true, Labels: map[string]string{},
		Allocatable: machine.Resources{CPUMilli: 4000, MemoryBytes: 4 * gib},
	}
	for _, f := range edit {
		f(&h)
	}
	return h
}

func label(k, v string) func(*Host) { return func(h *Host) { h.Labels[k] = v } }

func taint(t corev1.Taint) func(*Host) { return func(h *Host) { h.Taints = append(h.Taints, t) } }

func zone(z string) func(*Host) { return label(zoneLabel, z) }

func problem(p string) func(*Host) { return func(h *Host) { h.Problem = p } }

func cordoned(h *Host) { h.Cordoned = true }

func noKVM(h *Host) { h.KVM = false }

func memory(bytes int64) func(*Host) { return func(h *Host) { h.Allocatable.MemoryBytes = bytes } }

func cpuModels(m ...string) func(*Host) { return func(h *Host) { h.CPUModels = m } }

func withImages(im ...string) func(*Host) { return func(h *Host) { h.Images = im } }

// instance returns an instance of 1 vCPU and 512 MiB.
func instance(name string, edit ...func(*kubevirtv1.VirtualMachineInstance)) *kubevirtv1.VirtualMachineInstance {
	guest := resource.MustParse("512Mi")
	vmi := &kubevirtv1.VirtualMachineInstance{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Labels: map[string]string{"app": "web"}},
		Spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
			Memory: &kubevirtv1.Memory{Guest: &guest},
		}},
	}
	for _, f := range edit {
		f(vmi)
	}
	return vmi
}

func spec(f func(*kubevirtv1.VirtualMachineInstanceSpec)) func(*kubevirtv1.VirtualMachineInstance) {
	return func(vmi *kubevirtv1.VirtualMachineInstance) { f(&vmi.Spec) }
}

func appSelector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
}

func podTerm(key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{LabelSelector: appSelector(), TopologyKey: key}
}

func antiAffinity(key string) func(*kubevirtv1.VirtualMachineInstance) {
	return spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
		s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{podTerm(key)},
		}}
	})
}

func snapshot(hosts ...Host) *Snapshot {
	s := NewSnapshot()
	for _, h := range hosts {
		s.SetHost(h)
	}
	return s
}

// put records an instance as placed.
func put(s *Snapshot, vmi *kubevirtv1.VirtualMachineInstance, hosts ...string) {
	s.SetInstance(Instance{
		UID: string(vmi.UID), Namespace: vmi.Namespace, Labels: vmi.Labels, Hosts: hosts,
		Resources: DefaultPolicy().Resources(&vmi.Spec), Affinity: vmi.Spec.Affinity,
	})
}

func request(t testing.TB, vmi *kubevirtv1.VirtualMachineInstance, policy Policy) *Request {
	t.Helper()
	r, err := NewRequest(vmi, policy)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPlace(t *testing.T) {
	required := func(terms ...corev1.NodeSelectorRequirement) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}}},
			}}
		})
	}
	gpuTaint := corev1.Taint{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}
	for _, tc := range []struct {
		name   string
		hosts  []Host
		vmi    *kubevirtv1.VirtualMachineInstance
		policy func(*Policy)
		setup  func(*Snapshot)
		want   string // host, or the text of the refusal
	}{
		{
			name: "no hosts", vmi: instance("a"), want: "0/0 hosts are available",
		}, {
			name:  "reasons are counted",
			hosts: []Host{host("h1", memory(64*mib)), host("h2", cordoned), host("h3", cordoned)},
			vmi:   instance("a"), want: "0/3 hosts are available: 1 Insufficient memory, 2 cordoned",
		}, {
			name:  "dead and not ready hosts are left out",
			hosts: []Host{host("h1", problem("dead")), host("h2", problem("not ready")), host("h3")},
			vmi:   instance("a"), want: "h3",
		}, {
			name:  "cordon can be tolerated",
			hosts: []Host{host("h1", cordoned)},
			vmi: instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}}
			})),
			want: "h1",
		}, {
			name:  "node selector",
			hosts: []Host{host("h1"), host("h2", label("disk", "ssd")), host("h3")},
			vmi:   instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} })),
			want:  "h2",
		}, {
			name:  "node selector by host name without a Node object",
			hosts: []Host{host("h1"), host("h2")},
			vmi: instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.NodeSelector = map[string]string{corev1.LabelHostname: "h2"}
			})),
			want: "h2",
		}, {
			name:  "required node affinity",
			hosts: []Host{host("h1", zone("a")), host("h2", zone("b"))},
			vmi:   instance("a", required(corev1.NodeSelectorRequirement{Key: zoneLabel, Operator: corev1.NodeSelectorOpNotIn, Values: []string{"a"}})),
			want:  "h2",
		}, {
			name:  "required node affinity of nothing",
			hosts: []Host{host("h1", zone("a"))},
			vmi:   instance("a", required(corev1.NodeSelectorRequirement{Key: "x", Operator: corev1.NodeSelectorOpExists})),
			want:  "0/1 hosts are available: 1 didn't match node affinity or selector",
		}, {
			name:  "taints repel",
			hosts: []Host{host("h1", taint(gpuTaint)), host("h2", taint(gpuTaint))},
			vmi:   instance("a"), want: "0/2 hosts are available: 2 had untolerated taint {gpu: yes}",
		}, {
			name:  "taints are tolerated",
			hosts: []Host{host("h1", taint(gpuTaint))},
			vmi: instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpEqual, Value: "yes", Effect: corev1.TaintEffectNoSchedule}}
			})),
			want: "h1",
		}, {
			name:  "soft taints are avoided",
			hosts: []Host{host("h1", taint(corev1.Taint{Key: "x", Effect: corev1.TaintEffectPreferNoSchedule})), host("h2", memory(3*gib))},
			vmi:   instance("a"), want: "h2",
		}, {
			name:  "CPU model",
			hosts: []Host{host("h1", cpuModels("Penryn")), host("h2", cpuModels("Penryn", "Haswell"))},
			vmi:   instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) { s.Domain.CPU = &kubevirtv1.CPU{Model: "Haswell"} })),
			want:  "h2",
		}, {
			name:  "CPU features by policy",
			hosts: []Host{host("h1", label("cpu-feature.node.kubevirt.io/avx2", "true"), label("cpu-feature.node.kubevirt.io/hle", "true")), host("h2"), host("h3", label("cpu-feature.node.kubevirt.io/avx2", "true"))},
			vmi: instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Domain.CPU = &kubevirtv1.CPU{Features: []kubevirtv1.CPUFeature{{Name: "avx2"}, {Name: "hle", Policy: "forbid"}, {Name: "optional-one", Policy: "optional"}}}
			})),
			want: "h3",
		}, {
			name:  "KVM is preferred",
			hosts: []Host{host("h1", noKVM), host("h2", memory(2*gib)), host("h3", noKVM)},
			vmi:   instance("a"), want: "h2",
		}, {
			name:  "KVM can be demanded",
			hosts: []Host{host("h1", noKVM)}, policy: func(p *Policy) { p.AllowEmulation = false },
			vmi: instance("a"), want: "0/1 hosts are available: 1 without working KVM",
		}, {
			name:  "balance takes the emptier host",
			hosts: []Host{host("h1"), host("h2")}, vmi: instance("new"),
			setup: func(s *Snapshot) { put(s, instance("old"), "h1") }, want: "h2",
		}, {
			name:  "pack takes the fuller host",
			hosts: []Host{host("h1"), host("h2")}, vmi: instance("new"), policy: func(p *Policy) { p.Strategy = Pack },
			setup: func(s *Snapshot) { put(s, instance("old"), "h1") }, want: "h1",
		}, {
			name:  "a host that has the image is better",
			hosts: []Host{host("h1"), host("h2", withImages("reg/img:1")), host("h3")},
			vmi: instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Volumes = []kubevirtv1.Volume{{Name: "d", VolumeSource: kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "reg/img:1"}}}}
			})),
			want: "h2",
		}, {
			name:  "a reservation on a second host counts there too",
			hosts: []Host{host("h1", memory(700*mib)), host("h2", memory(700*mib))}, vmi: instance("new"),
			setup: func(s *Snapshot) { put(s, instance("moving"), "h1", "h2") },
			want:  "0/2 hosts are available: 2 Insufficient memory",
		}, {
			name:  "devices",
			hosts: []Host{host("h1"), host("h2", func(h *Host) { h.Allocatable.Devices = map[string]int64{"nvidia.com/T4": 1} })},
			vmi: instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Domain.Devices.GPUs = []kubevirtv1.GPU{{Name: "gpu", DeviceName: "nvidia.com/T4"}}
			})),
			want: "h2",
		}, {
			name:  "anti-affinity",
			hosts: []Host{host("h1", zone("a")), host("h2", zone("a")), host("h3", zone("b"))},
			vmi:   instance("new", antiAffinity(zoneLabel)),
			setup: func(s *Snapshot) { put(s, instance("old"), "h1") }, want: "h3",
		}, {
			name:  "anti-affinity of a running instance keeps others away",
			hosts: []Host{host("h1", zone("a"))},
			vmi:   instance("new"),
			setup: func(s *Snapshot) { put(s, instance("old", antiAffinity(zoneLabel)), "h1") },
			want:  "0/1 hosts are available: 1 kept free by the anti-affinity of running instances",
		}, {
			name:  "affinity",
			hosts: []Host{host("h1", zone("a")), host("h2", zone("b"), memory(gib))},
			vmi: instance("new", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{podTerm(zoneLabel)}}}
			}), func(v *kubevirtv1.VirtualMachineInstance) { v.Labels = nil }),
			setup: func(s *Snapshot) { put(s, instance("old"), "h2") }, want: "0/2 hosts are available: 1 Insufficient memory, 1 didn't match affinity rules",
		}, {
			name:  "the first of an affine group may start anywhere",
			hosts: []Host{host("h1", zone("a"))},
			vmi: instance("new", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{podTerm(zoneLabel)}}}
			})),
			want: "h1",
		}, {
			name:  "preferred anti-affinity",
			hosts: []Host{host("h1", memory(8*gib)), host("h2")},
			vmi: instance("new", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: podTerm(corev1.LabelHostname)}}}}
			})),
			setup: func(s *Snapshot) { put(s, instance("old"), "h1") }, want: "h2",
		}, {
			name:  "topology spread",
			hosts: []Host{host("h1", zone("a"), memory(32*gib)), host("h2", zone("b"))},
			vmi: instance("new", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: zoneLabel, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: appSelector()}}
			})),
			setup: func(s *Snapshot) { put(s, instance("old"), "h1") }, want: "h2",
		}, {
			name:  "topology spread that cannot be kept",
			hosts: []Host{host("h1", zone("a")), host("h2", zone("b"), memory(mib))},
			vmi: instance("new", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: zoneLabel, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: appSelector()}}
			})),
			setup: func(s *Snapshot) { put(s, instance("old"), "h1") },
			want:  "0/2 hosts are available: 1 Insufficient memory, 1 didn't match topology spread constraints",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := DefaultPolicy()
			if tc.policy != nil {
				tc.policy(&policy)
			}
			s := snapshot(tc.hosts...)
			if tc.setup != nil {
				tc.setup(s)
			}
			if tc.name == "affinity" {
				// h2 is the only host near "old"; fill it up.
				put(s, instance("filler"), "h2")
			}
			d, err := s.Place(request(t, tc.vmi, policy))
			got := d
			if err != nil {
				var u *Unschedulable
				if !errors.As(err, &u) {
					t.Fatalf("error is %T, want *Unschedulable", err)
				}
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestVolumesAndExclusions(t *testing.T) {
	s := snapshot(host("h1"), host("h2"), host("h3"))
	r := request(t, instance("a"), DefaultPolicy())
	r.KeepTo([]string{"h1", "h2"}, "cannot reach volume disk")
	r.KeepTo([]string{"h2", "h3"}, "cannot reach volume disk")
	if d, err := s.Place(r); err != nil || d != "h2" {
		t.Errorf("got %v, %v, want only h2", d, err)
	}
	r.Avoid("h2", "refused the offer")
	_, err := s.Place(r)
	if want := "0/3 hosts are available: 1 refused the offer, 2 cannot reach volume disk"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestBadFieldsAreNamed(t *testing.T) {
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
	for want, edit := range map[string]func(*kubevirtv1.VirtualMachineInstanceSpec){
		"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector": func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: &bad, TopologyKey: "x"}}}}
		},
		"spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey": func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1}}}}
		},
		"spec.topologySpreadConstraints[0]": func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "x"}}
		},
		"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution": func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "Near"}}}}}}}
		},
	} {
		if _, err := NewRequest(instance("a", spec(edit)), DefaultPolicy()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want an error that begins with %s", err, want)
		}
	}
}

func TestPolicyValidate(t *testing.T) {
	if err := DefaultPolicy().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	err := Policy{Strategy: "best"}.Validate()
	for _, field := range []string{"strategy", "cpuAllocationRatio", "memoryOvercommitPercent", "sampleHosts"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

// A host that cannot emulate what an instance needs is passed over, and the reason
// is the same from one attempt to the next.
func TestEmulatorsAreMatched(t *testing.T) {
	efi := instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
		s.Domain.Machine = &kubevirtv1.Machine{Type: "pc-q35-9.0"}
		s.Domain.Firmware = &kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{EFI: &kubevirtv1.EFI{}}}
	}))
	request, err := NewRequest(efi, DefaultPolicy())
	if err != nil {
		t.Fatal(err)
	}
	s := NewSnapshot()
	room := machine.Resources{CPUMilli: 4000, MemoryBytes: 4 * gib}
	s.SetHost(Host{Name: "old", KVM: true, Allocatable: room, Emulator: &machine.Emulator{MachineTypes: []string{"q35"}, EFI: true, SecureBoot: true}})
	s.SetHost(Host{Name: "bios", KVM: true, Allocatable: room, Emulator: &machine.Emulator{MachineTypes: []string{"pc-q35-9.0"}}})
	_, err = s.Place(request)
	if want := "0/2 hosts are available: 1 lacked EFI firmware, 1 lacked machine type pc-q35-9.0"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	s.SetHost(Host{Name: "good", KVM: true, Allocatable: room, Emulator: &machine.Emulator{MachineTypes: []string{"pc-q35-9.0"}, EFI: true, SecureBoot: true}})
	if host, err := s.Place(request); host != "good" {
		t.Errorf("placed on %q, %v", host, err)
	}
}
