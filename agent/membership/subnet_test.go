package membership

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestSubnet(t *testing.T) {
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

func TestRangeOfAMeshFromBefore(t *testing.T) {
	store := raftstoretest.New(t)
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: SubnetPrefix + "00000", Value: []byte("host1")}}}); err != nil {
		t.Fatal(err)
	}
	if got, err := claimSubnet(t, store, "host1", "10.96.0.0/14"); err != nil || got.String() != "10.96.0.0/24" {
		t.Errorf("host1 has %s, %v; want the subnet that it had", got, err)
	}
	if _, err := claimSubnet(t, store, "host2", podCIDR); err == nil || !strings.Contains(err.Error(), "have 10.96.0.0/14") {
		t.Errorf("another host has another range: %v", err)
	}
}

func TestRangeIsCheckedBeforeItIsClaimed(t *testing.T) {
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
