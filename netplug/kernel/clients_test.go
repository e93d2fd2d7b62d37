package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// dhclientScript keeps what dhclient was told, and configures the card as its own does.
const dhclientScript = `#!/bin/sh
case "$reason" in
PREINIT) ip link set "$interface" up ;;
BOUND)
	ip addr add "$new_ip_address/$new_subnet_mask" dev "$interface"
	ip route add default via "$new_routers"
	echo "ip=$new_ip_address router=$new_routers dns=$new_domain_name_servers domain=$new_domain_name search=$new_domain_search hostname=$new_host_name mtu=$new_interface_mtu" > "$OUT"
	;;
esac
`

// bootDHClient lets Debian's dhclient get the guest's address with the configuration that
// the package comes with.
func (b *bed) bootDHClient(tap netplug.Tap) (*netplugtest.Guest, string) {
	b.t.Helper()
	g := netplugtest.NewGuest(b.t, tap.Name, tap.MAC)
	dir := b.t.TempDir()
	script, out := filepath.Join(dir, "script"), filepath.Join(dir, "out")
	if err := os.WriteFile(script, []byte(dhclientScript), 0o700); err != nil {
		b.t.Fatal(err)
	}
	files := []string{"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "-sf", script}
	cmd := g.Command("dhclient", append([]string{"-4", "-1", "-v", "-cf", "/etc/dhcp/dhclient.conf", "-e", "OUT=" + out}, append(files, "eth0")...)...)
	log, err := cmd.CombinedOutput()
	b.t.Cleanup(func() { _, _ = g.Try("dhclient", append([]string{"-4", "-x"}, append(files, "eth0")...)...) })
	if err != nil {
		b.t.Fatalf("dhclient: %v\n%s", err, log)
	}
	told, err := os.ReadFile(out)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, log)
	}
	return g, strings.TrimSpace(string(told))
}

// networkdScript runs systemd-networkd as in a container: it finds by /sys being
// read-only that there is no udev to wait for. It ends when there is a lease, and the
// card stays as it is.
const networkdScript = `set -e
mount -t tmpfs tmpfs /run
mount -t sysfs -o ro sysfs /sys
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network: /run/systemd/netif
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nKeepConfiguration=dhcp-on-stop\n%s' "$SETTINGS" > /run/systemd/network/10-eth0.network
/lib/systemd/systemd-networkd &
pid=$!
i=0
until grep -qs ^ADDRESS= /run/systemd/netif/leases/* && grep -qs ^OPER_STATE=routable /run/systemd/netif/links/*; do
	i=$((i+1))
	[ $i -lt 200 ] || exit 1
	sleep 0.1
done
cat /run/systemd/netif/leases/* > "$OUT"
grep ^DOMAINS= /run/systemd/netif/links/* >> "$OUT"
kill $pid
wait $pid
`

// bootNetworkd lets systemd-networkd get the guest's address. The settings go into the
// card's .network file.
func (b *bed) bootNetworkd(tap netplug.Tap, settings string) (*netplugtest.Guest, string) {
	b.t.Helper()
	g := netplugtest.NewGuest(b.t, tap.Name, tap.MAC)
	out := filepath.Join(b.t.TempDir(), "out")
	cmd := g.Command("unshare", "--mount", "sh", "-c", networkdScript)
	cmd.Env = append(os.Environ(), "OUT="+out, "SETTINGS="+settings)
	if log, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("systemd-networkd: %v\n%s", err, log)
	}
	told, err := os.ReadFile(out)
	if err != nil {
		b.t.Fatal(err)
	}
	return g, string(told)
}

// resolves asks for an IPv4 address as programs of a guest do: with glibc, whose
// resolv.conf names the gateway and these search domains.
func resolves(t *testing.T, g *netplugtest.Guest, name, search string) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 10.9.0.1\nsearch "+search+"\noptions timeout:5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _ := g.Try("unshare", "--mount", "sh", "-c", "mount --bind "+conf+" /etc/resolv.conf && getent ahostsv4 "+name)
	address, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	return address
}

// TestClientsOfDistributions has the DHCP clients of Debian read what they are told, and
// resolves names with what each of them makes of it. networkd takes no search domain
// unless it is told to, so there the short name has to be enough.
func TestClientsOfDistributions(t *testing.T) {
	const neighbour = "10.9.0.11"
	for name, tc := range map[string]struct {
		boot   func(*bed, netplug.Tap) (*netplugtest.Guest, string)
		told   []string
		search string // that the client writes to resolv.conf
		bare   string // what the neighbour's name alone resolves to
	}{
		"dhclient": {
			(*bed).bootDHClient,
			[]string{"ip=10.9.0.10 ", "router=10.9.0.1 ", "dns=10.9.0.1 ", "domain=vm.example ", "search=default.vm.example. vm.example. ", "mtu=1400"},
			"default.vm.example. vm.example.", neighbour,
		},
		"networkd": {
			func(b *bed, tap netplug.Tap) (*netplugtest.Guest, string) { return b.bootNetworkd(tap, "") },
			[]string{"ADDRESS=10.9.0.10\n", "DNS=10.9.0.1\n", "DOMAINNAME=vm.example\n", "DOMAIN_SEARCH_LIST=default.vm.example vm.example\n", "MTU=1400\n", "DOMAINS=\n"},
			".", "",
		},
		"networkd that uses domains": {
			func(b *bed, tap netplug.Tap) (*netplugtest.Guest, string) {
				return b.bootNetworkd(tap, "[DHCPv4]\nUseDomains=yes\n")
			},
			[]string{"ADDRESS=10.9.0.10\n", "DOMAINS=vm.example default.vm.example vm.example\n"},
			"vm.example default.vm.example vm.example", neighbour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if !netplugtest.OwnNamespace(t) {
				return
			}
			b := newBed(t)
			b.set()
			g, told := tc.boot(b, b.want.Taps[0])
			for _, want := range tc.told {
				if !strings.Contains(told, want) {
					t.Errorf("the client was not told %q but\n%s", want, told)
				}
			}
			for name, want := range map[string]string{"b.default.vm.example": neighbour, "b.default": neighbour, "b": tc.bare, "none.default": ""} {
				if got := resolves(t, g, name, tc.search); got != want {
					t.Errorf("%s resolves to %q, want %q", name, got, want)
				}
			}
		})
	}
}
