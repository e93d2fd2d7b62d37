package membership

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestSubnet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		all  string
		n    int
		want string
	}{
		{"10.64.0.0/14", 0, "10.64.0.0/24"},
		{"10.64.0.0/14", 1, "10.64.1.0/24"},
		{"10.64.0.0/14", 256, "10.65.0.0/24"},
		{"10.64.0.0/14", 1023, "10.67.255.0/24"},
		{"10.64.0.0/14", 1024, ""},
		{"10.64.7.9/22", 0, "10.64.4.0/24"},
		{"10.64.7.9/22", 3, "10.64.7.0/24"},
		{"10.64.7.9/22", 4, ""},
		{"0.0.0.0/0", 1<<24 - 1, "255.255.255.0/24"},
	} {
		got, err := nthSubnet(netip.MustParsePrefix(test.all), test.n)
		if test.want == "" {
			if err == nil || !strings.Contains(err.Error(), "network.podCIDR") {
				t.Errorf("part %d of %s: got %s, %v; want an error that names the setting", test.n, test.all, got, err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("part %d of %s: got %s, %v; want %s", test.n, test.all, got, err, test.want)
		}
	}
}

const podCIDR = "10.64.0.0/14"

// claimSubnet is a start of a host with a range in its agent.yaml.
func claimSubnet(t *testing.T, store *raftstore.Store, host, podCIDR string) (netip.Prefix, error) {
	return claimChecked(t, store, host, podCIDR, func(netip.Prefix) error { return nil })
}

func claimChecked(t *testing.T, store *raftstore.Store, host, podCIDR string, check func(netip.Prefix) error) (netip.Prefix, error) {
	m := newMember(Config{Name: host}, Options{Logger: slog.New(slog.DiscardHandler)})
	m.store, m.records = store, store
	return m.ClaimSubnet(t.Context(), podCIDR, check)
}

func claimed(t *testing.T, store *raftstore.Store, host string) string {
	t.Helper()
	prefix, err := claimSubnet(t, store, host, podCIDR)
	if err != nil {
		t.Fatalf("claim a subnet for %s: %v", host, err)
	}
	return prefix.String()
}

func TestSubnetsAreNeverShared(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	const hosts = 20
	prefixes := make([]netip.Prefix, hosts)
	errs := make([]error, hosts)
	var all sync.WaitGroup
	for i := range hosts {
		all.Go(func() {
			prefixes[i], errs[i] = claimSubnet(t, store, fmt.Sprintf("host%d", i), podCIDR)
		})
	}
	all.Wait()
	owner := map[netip.Prefix]int{}
	for i, prefix := range prefixes {
		if errs[i] != nil {
			t.Fatalf("host%d: %v", i, errs[i])
		}
		if other, taken := owner[prefix]; taken {
			t.Errorf("host%d and host%d both have %s", other, i, prefix)
		}
		owner[prefix] = i
	}
}

func TestSubnetSurvivesRestart(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	first, second := claimed(t, store, "host1"), claimed(t, store, "host2")
	if first != "10.64.0.0/24" || second != "10.64.1.0/24" {
		t.Errorf("got %s and %s, want the lowest ones", first, second)
	}
	before := store.Revision()
	if again := claimed(t, store, "host1"); again != first {
		t.Errorf("after a restart host1 has %s instead of %s", again, first)
	}
	if store.Revision() != before {
		t.Error("a restart wrote something")
	}
}

func TestReleasedSubnetIsFree(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	first := claimed(t, store, "host1")
	second := claimed(t, store, "host2")
	if err := releaseSubnet(t.Context(), store, "host1"); err != nil {
		t.Fatal(err)
	}
	if err := releaseSubnet(t.Context(), store, "host1"); err != nil {
		t.Errorf("releasing what is released: %v", err)
	}
	if got := claimed(t, store, "host3"); got != first {
		t.Errorf("host3 has %s, want the one that was released, %s", got, first)
	}
	if got := claimed(t, store, "host2"); got != second {
		t.Errorf("releasing host1's subnet moved host2 from %s to %s", second, got)
	}
}

func TestSubnetsRunOut(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	for i := range 4 {
		if _, err := claimSubnet(t, store, fmt.Sprintf("host%d", i), "10.0.0.0/22"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := claimSubnet(t, store, "host5", "10.0.0.0/22"); err == nil || !strings.Contains(err.Error(), "room for 4 hosts") {
		t.Errorf("a fifth host in a /22: %v", err)
	}
	if _, err := claimSubnet(t, store, "host5", "nonsense"); err == nil || !strings.Contains(err.Error(), "network.podCIDR") {
		t.Errorf("a network that is none: %v", err)
	}
}

func TestRangeOfTheMesh(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	if got := claimed(t, store, "host1"); got != "10.64.0.0/24" {
		t.Fatalf("host1 has %s", got)
	}
	for _, host := range []string{"host1", "host2"} {
		before := store.Revision()
		_, err := claimSubnet(t, store, host, "10.96.0.0/14")
		if err == nil || !strings.Contains(err.Error(), "guests of this mesh have 10.64.0.0/14, and not 10.96.0.0/14") || store.Revision() != before {
			t.Errorf("%s with another range: %v, %d changes", host, err, store.Revision()-before)
		}
	}
	// The same range, written otherwise.
	if got, err := claimSubnet(t, store, "host2", "10.66.7.8/14"); err != nil || got.String() != "10.64.1.0/24" {
		t.Errorf("host2 has %s, %v", got, err)
	}
}

// meshFromBefore is the state of a mesh without a record of its range: hosts that have
// subnets, and Nodes that say which; "" stands for a Node that does not say.
func meshFromBefore(t *testing.T, subnets ...string) *raftstore.Store {
	t.Helper()
	store := raftstoretest.New(t)
	for i, subnet := range subnets {
		host := fmt.Sprintf("host%d", i+1)
		if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: subnetKey(i), Value: []byte(host)}}}); err != nil {
			t.Fatal(err)
		}
		var tx objects.Tx
		tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: host}, Spec: corev1.NodeSpec{PodCIDR: subnet}})
		if _, err := tx.Commit(t.Context(), objects.FromRaft(store, nil)); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func TestRangeOfAMeshFromBefore(t *testing.T) {
	t.Parallel()
	store := meshFromBefore(t, "10.96.0.0/24", "10.96.1.0/24")
	if got, err := claimSubnet(t, store, "host1", "10.96.0.0/14"); err != nil || got.String() != "10.96.0.0/24" {
		t.Errorf("host1 has %s, %v; want the subnet that it had", got, err)
	}
	for _, host := range []string{"host2", "host3"} {
		if _, err := claimSubnet(t, store, host, podCIDR); err == nil || !strings.Contains(err.Error(), "have 10.96.0.0/14") {
			t.Errorf("%s has another range: %v", host, err)
		}
	}
}

// In a mesh from before there was a record of the range, no host sets one that is not that of
// all others, and no host is kept from starting by it.
func TestRangesThatDifferAreNotRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before []string
		// first and own are the host that starts first, and its range.
		first, own, subnet string
	}{
		"a host that joins with the default":       {[]string{"10.96.0.0/24"}, "host2", podCIDR, "10.64.1.0/24"},
		"the odd host is upgraded first":           {[]string{"10.96.0.0/24", "10.64.1.0/24"}, "host2", podCIDR, "10.64.1.0/24"},
		"a wider range than the others":            {[]string{"10.96.0.0/24", "10.64.1.0/24"}, "host2", "10.64.0.0/15", "10.64.1.0/24"},
		"a host of which is not known what it has": {[]string{""}, "host2", podCIDR, "10.64.1.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			store := meshFromBefore(t, test.before...)
			if got, err := claimSubnet(t, store, test.first, test.own); err != nil || got.String() != test.subnet {
				t.Errorf("%s has %s, %v", test.first, got, err)
			}
			if got, err := claimSubnet(t, store, "host1", "10.96.0.0/14"); err != nil || got.String() != "10.96.0.0/24" {
				t.Errorf("host1 has %s, %v", got, err)
			}
			if mesh, err := guestNetwork(t.Context(), store); err != nil || mesh.IsValid() {
				t.Errorf("the mesh has %s, %v", mesh, err)
			}
		})
	}
}

func TestRangeIsCheckedBeforeItIsClaimed(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	taken := errors.New("this host has it on eth0")
	before := store.Revision()
	if _, err := claimChecked(t, store, "host1", podCIDR, func(guests netip.Prefix) error {
		if guests.String() != podCIDR {
			t.Errorf("checked %s", guests)
		}
		return taken
	}); !errors.Is(err, taken) || store.Revision() != before {
		t.Errorf("%v, %d changes", err, store.Revision()-before)
	}
	first := claimed(t, store, "host1")
	if got, err := claimChecked(t, store, "host1", podCIDR, func(netip.Prefix) error { return taken }); err != nil || got.String() != first {
		t.Errorf("a host whose guests have addresses already: %s, %v", got, err)
	}
}

func TestOtherRangesDoNotJoin(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mesh, own string
		joins     bool
	}{
		{"", "", true}, {"", "10.96.0.0/14", true}, {podCIDR, podCIDR, true}, {"10.96.0.0/14", "10.96.0.0/14", true},
		{podCIDR, "", true}, {"10.96.0.0/14", "", false}, {"10.96.0.0/14", podCIDR, false}, {podCIDR, "nonsense", false},
	} {
		if err := checkGuestNetwork(test.mesh, test.own); (err == nil) != test.joins {
			t.Errorf("a host with %q joins a mesh with %q: %v", test.own, test.mesh, err)
		}
	}
}
