package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
)

// observer answers with fixed counters.
type observer struct {
	hypervisor.Observer
	stats func(context.Context) ([]hypervisor.Stats, error)
}

func (o observer) Stats(ctx context.Context) ([]hypervisor.Stats, error) { return o.stats(ctx) }

func fixed(all ...hypervisor.Stats) observer {
	return observer{stats: func(context.Context) ([]hypervisor.Stats, error) { return all, nil }}
}

// listed returns a list of instances of the host.
func listed(l []*kubevirtv1.VirtualMachineInstance) func() []*kubevirtv1.VirtualMachineInstance {
	return func() []*kubevirtv1.VirtualMachineInstance { return l }
}

// collect registers a collector strictly: a metric that Describe does not announce
// fails the scrape.
func collect(t *testing.T, of hypervisor.Observer, instances ...*kubevirtv1.VirtualMachineInstance) (*Collector, *prometheus.Registry) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Host, cfg.Hypervisor, cfg.Instances, cfg.Logger = "h1", of, listed(instances), slog.New(slog.DiscardHandler)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	return c, reg
}

// full is a guest all of whose counters differ.
func full() hypervisor.Stats {
	const s = 1e9
	return hypervisor.Stats{
		Ref: hypervisor.Ref{Namespace: "ns", Name: "a", UID: "u"}, State: hypervisor.StateRunning,
		CPU: hypervisor.CPUStats{Time: 10 * s, User: 7 * s, System: 3 * s, VCPUs: []hypervisor.VCPUStats{
			{ID: 0, Running: true, Time: 5 * s, Wait: 1 * s, Delay: 2 * s}, {ID: 1, Time: 4 * s}, {ID: 2},
		}},
		Memory: hypervisor.MemoryStats{
			Current: 1, Maximum: 2, RSS: 3, Available: 4, Unused: 5, Usable: 6, Cache: 7,
			SwapIn: 8, SwapOut: 9, MajorFaults: 10, MinorFaults: 11,
		},
		Disks: []hypervisor.DiskStats{{
			Name: "vda", Alias: "root", ReadRequests: 1, ReadBytes: 2, ReadTime: 3 * s,
			WriteRequests: 4, WriteBytes: 5, WriteTime: 6 * s, FlushRequests: 7, FlushTime: 8 * s,
		}},
		NICs: []hypervisor.NICStats{{
			Name: "tap0", Alias: "default", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDrops: 4,
			TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDrops: 8,
		}},
	}
}

// TestNamesAndLabels holds every series of a guest to what KubeVirt calls it.
func TestNamesAndLabels(t *testing.T) {
	_, reg := collect(t, fixed(full()))
	got := series(t, reg)
	disk, nic := `drive="root",`, `interface="default",`
	for name, want := range map[string]float64{
		at("cpu_usage_seconds_total"): 10, at("cpu_user_usage_seconds_total"): 7, at("cpu_system_usage_seconds_total"): 3,
		atVCPU(0, "running"): 5, atVCPU(1, "blocked"): 4, atVCPU(2, "offline"): 0,
		at("vcpu_wait_seconds_total", `id="0",`): 1, at("vcpu_delay_seconds_total", `id="0",`): 2,
		at("memory_actual_balloon_bytes"): 1, at("memory_domain_bytes"): 2, at("memory_resident_bytes"): 3,
		at("memory_available_bytes"): 4, at("memory_unused_bytes"): 5, at("memory_usable_bytes"): 6, at("memory_cached_bytes"): 7,
		at("memory_swap_in_traffic_bytes"): 8, at("memory_swap_out_traffic_bytes"): 9,
		at("memory_pgmajfault_total"): 10, at("memory_pgminfault_total"): 11,
		at("storage_iops_read_total", disk): 1, at("storage_read_traffic_bytes_total", disk): 2, at("storage_read_times_seconds_total", disk): 3,
		at("storage_iops_write_total", disk): 4, at("storage_write_traffic_bytes_total", disk): 5, at("storage_write_times_seconds_total", disk): 6,
		at("storage_flush_requests_total", disk): 7, at("storage_flush_times_seconds_total", disk): 8,
		at("network_receive_bytes_total", nic): 1, at("network_receive_packets_total", nic): 2,
		at("network_receive_errors_total", nic): 3, at("network_receive_packets_dropped_total", nic): 4,
		at("network_transmit_bytes_total", nic): 5, at("network_transmit_packets_total", nic): 6,
		at("network_transmit_errors_total", nic): 7, at("network_transmit_packets_dropped_total", nic): 8,
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s = %v (there: %v), want %v", name, have, ok, want)
		}
		delete(got, name)
	}
	for i := 1; i <= 2; i++ {
		delete(got, at("vcpu_wait_seconds_total", fmt.Sprintf(`id="%d",`, i)))
		delete(got, at("vcpu_delay_seconds_total", fmt.Sprintf(`id="%d",`, i)))
	}
	delete(got, "virtmesh_guest_scrape_failures_total{}")
	for name := range got {
		t.Errorf("unexpected %s", name)
	}
}

// at names a series of the guest; labels are sorted as Prometheus has them.
func at(name string, first ...string) string {
	return "kubevirt_vmi_" + name + "{" + strings.Join(first, "") + `name="a",namespace="ns",node="h1",}`
}

func atVCPU(id int, state string) string {
	return fmt.Sprintf(`kubevirt_vmi_vcpu_seconds_total{id="%d",name="a",namespace="ns",node="h1",state="%s",}`, id, state)
}

// series gathers all values by name and labels.
func series(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	all, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			name := f.GetName() + "{"
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf("%s=%q,", l.GetName(), l.GetValue())
			}
			out[name+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func TestWithoutABalloonDriverItsFiguresAreMissing(t *testing.T) {
	guest := full()
	guest.Memory = hypervisor.MemoryStats{Current: 1, Maximum: 2, RSS: 3}
	_, reg := collect(t, fixed(guest))
	got := series(t, reg)
	if _, ok := got[at("memory_unused_bytes")]; ok {
		t.Error("a guest that says nothing is said to have no memory left")
	}
	if got[at("memory_resident_bytes")] != 3 {
		t.Error("the host's own figure is missing")
	}
}

// TestDevicesOfOneName: no naming of devices can make a scrape fail as a whole.
func TestDevicesOfOneName(t *testing.T) {
	guest := full()
	guest.Disks = []hypervisor.DiskStats{
		{Name: "vda", Alias: "vdb", ReadBytes: 1}, {Name: "vdb", ReadBytes: 2}, {Name: "vdc", Alias: "vdb", ReadBytes: 3}, {},
	}
	guest.NICs = nil
	bad := full()
	bad.Ref.Name = "b\xff"
	_, reg := collect(t, fixed(guest, bad))
	got := series(t, reg)
	for drive, want := range map[string]float64{"vdb": 1, "vdc": 3} {
		if have := got[at("storage_read_traffic_bytes_total", `drive="`+drive+`",`)]; have != want {
			t.Errorf("%s: %v, want %v", drive, have, want)
		}
	}
}

func TestInfoShowsTheInstancesOfThisHost(t *testing.T) {
	migrate := kubevirtv1.EvictionStrategyLiveMigrate
	here := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", Annotations: map[string]string{
		"vm.kubevirt.io/os": "fedora", kubevirtv1.ClusterInstancetypeAnnotation: "small",
		"vm.kubevirt.io/flavor": strings.Repeat("x", maxLabel-1) + "äöü",
	}}}
	here.Status.NodeName, here.Status.Phase = "h1", kubevirtv1.Running
	here.Status.Machine = &kubevirtv1.Machine{Type: "q35"}
	here.Status.GuestOSInfo.Name = "what the guest says"
	stuck := here.DeepCopy()
	stuck.Name, stuck.Annotations, stuck.Spec.EvictionStrategy = "b", nil, &migrate
	moving := stuck.DeepCopy()
	moving.Name = "c"
	moving.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceIsMigratable, Status: corev1.ConditionTrue}}

	c, _ := collect(t, fixed(), here, stuck, moving)
	line := func(name, evictable, flavor, instanceType, os string) string {
		return fmt.Sprintf(`kubevirt_vmi_info{evictable="%s",flavor="%s",guest_os_arch="",guest_os_kernel_release="",guest_os_machine="q35",guest_os_name="",guest_os_version_id="",instance_type="%s",name="%s",namespace="ns",node="h1",os="%s",outdated="false",phase="running",preference="<none>",vmi_pod="<none>",workload="<none>"} 1
`, evictable, flavor, instanceType, name, os)
	}
	want := "# HELP kubevirt_vmi_info An instance on this host; always 1.\n# TYPE kubevirt_vmi_info gauge\n" +
		line("a", "true", strings.Repeat("x", maxLabel-1), "small", "fedora") +
		line("b", "false", none, none, none) + line("c", "true", none, none, none)
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "kubevirt_vmi_info"); err != nil {
		t.Error(err)
	}
}

// TestFailure: a daemon that is away costs the guests' series and nothing else, and
// they come back with it.
func TestFailure(t *testing.T) {
	fake := hypervisortest.NewFake()
	defer fake.Close()
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "ns", Name: "a", UID: "u"}, Host: "h1", Epoch: 1}
	xml := fmt.Sprintf(`<domain><name>ns_a</name><memory unit="MiB">64</memory><vcpu>2</vcpu><metadata>%s</metadata>
		<devices><disk><alias name="ua-root"/></disk></devices></domain>`, owner.Metadata())
	if _, err := fake.Start(t.Context(), xml, hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}}
	vmi.Status.NodeName = "h1"
	c, reg := collect(t, fake, vmi)

	if got := series(t, reg); got[at("memory_domain_bytes")] != 64<<20 || got[at("storage_iops_read_total", `drive="root",`)] != 1 {
		t.Errorf("got %v", got)
	}
	fake.Machine().SetAway(true)
	if got := series(t, reg); len(got) != 1 || got["virtmesh_guest_scrape_failures_total{}"] != 1 {
		t.Errorf("while the daemon is away: %v", got)
	}
	fake.Machine().SetAway(false)
	if got := series(t, reg); got[at("memory_domain_bytes")] != 64<<20 || testutil.ToFloat64(c.failures) != 1 {
		t.Errorf("after its return: %v", got)
	}
}

// TestAHungDaemonDoesNotHoldScrapesUp: neither the scrape that asks it nor those that
// wait for their turn take longer than the limit, and it is asked only once at a time.
func TestAHungDaemonDoesNotHoldScrapesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, most := 0, 0
		var now = make(chan struct{}, 8)
		hung := observer{stats: func(ctx context.Context) ([]hypervisor.Stats, error) {
			now <- struct{}{}
			asked, most = asked+1, max(most, len(now))
			<-ctx.Done()
			<-now
			return nil, errors.New("gave up")
		}}
		c, reg := collect(t, hung)
		began := time.Now()
		done := make(chan int)
		for range 3 {
			go func() {
				all, err := reg.Gather()
				if err != nil {
					t.Error(err)
				}
				done <- len(all)
			}()
		}
		for range 3 {
			if n := <-done; n != 1 {
				t.Errorf("%d families, want that of the failures", n)
			}
		}
		if took := time.Since(began); took > c.cfg.Timeout {
			t.Errorf("took %v", took)
		}
		if got := testutil.ToFloat64(c.failures); got != 3 || most != 1 {
			t.Errorf("%v failures, want 3; asked %d times, %d at once", got, asked, most)
		}
	})
}

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Host, good.Hypervisor, good.Instances, good.Logger = "h1", fixed(), listed(nil), slog.New(slog.DiscardHandler)
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"host":       func(c *Config) { c.Host = "" },
		"hypervisor": func(c *Config) { c.Hypervisor = nil },
		"instances":  func(c *Config) { c.Instances = nil },
		"logger":     func(c *Config) { c.Logger = nil },
		"timeout":    func(c *Config) { c.Timeout = 0 },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
