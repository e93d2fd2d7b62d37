//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A crowd on the hosts' network calls the ports of one host from many addresses. The mesh
// stays whole, an administrator is served, another host's agent starts and finds the mesh,
// and the agent needs little more memory.
func TestStrangersDoNotStopTheMesh(t *testing.T) {
	waitWhole(t)
	const target = "host1"
	a := connect(t, target)
	server, err := url.Parse(a.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	before := agentMemory(t, target)
	stop := make(chan struct{})
	var crowd sync.WaitGroup
	for _, from := range strangerAddresses(t, server.Host) {
		crowd.Go(func() { callAgain(from, server.Host, "", stop) })
		crowd.Go(func() { callAgain(from, net.JoinHostPort(server.Hostname(), "7946"), "\x0a\x01\x00\x00\x00", stop) })
		crowd.Go(func() { sendAgain(from, net.JoinHostPort(server.Hostname(), "7946"), stop) })
	}
	defer crowd.Wait()
	defer close(stop)
	restarted := make(chan struct{})
	go func() { // as an upgrade of its package does
		defer close(restarted)
		_, _ = lab(context.Background(), "exec", "host3", "--", "pkill", "-TERM", "-f", "[v]irtmesh agent run")
	}()
	most, worst, asked := 0, time.Duration(0), 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); asked++ {
		start := time.Now()
		if _, err := a.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatalf("an administrator is not served: %v", err)
		}
		worst = max(worst, time.Since(start))
		most = max(most, agentMemory(t, target))
	}
	<-restarted
	waitWhole(t)
	t.Logf("%d requests, the slowest took %v; the agent's memory went from %d to %d MB", asked, worst, before, most)
	if grown := most - before; grown > 150 {
		t.Errorf("the agent needs %d MB more", grown)
	}
}

// agentMemory returns the resident memory of a host's agent in MB.
func agentMemory(t *testing.T, host string) int {
	t.Helper()
	out := inside(t, host, "sh", "-c", `awk '/^VmRSS:/ { print $2 }' /proc/$(pgrep -o -f "[v]irtmesh agent run")/status`)
	kilobytes, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes >> 10
}

// strangerAddresses gives this machine 30 more addresses in the network of a lab host, until
// the test ends.
func strangerAddresses(t *testing.T, host string) (addresses []net.IP) {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	own := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	conn.Close()
	link := linkOf(t, own)
	for i := range byte(30) {
		bytes := own.As4()
		bytes[3] = 200 + i
		prefix := fmt.Sprintf("%s/32", netip.AddrFrom4(bytes))
		if out, err := exec.Command("ip", "address", "replace", prefix, "dev", link).CombinedOutput(); err != nil {
			t.Fatalf("add %s: %v: %s", prefix, err, out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "address", "delete", prefix, "dev", link).Run() })
		addresses = append(addresses, net.IP(bytes[:]))
	}
	return addresses
}

// linkOf returns the name of the interface that has an address.
func linkOf(t *testing.T, addr netip.Addr) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		addresses, _ := link.Addrs()
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == addr {
				return link.Name
			}
		}
	}
	t.Fatalf("no interface has %s", addr)
	return ""
}

// callAgain opens connections from an address, says the same on each, and holds the last 100
// of them until stop is closed.
func callAgain(from net.IP, to, text string, stop <-chan struct{}) {
	var open [100]net.Conn
	defer func() {
		for _, c := range open {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: time.Second}).Dial("tcp", to)
		if err != nil {
			continue
		}
		_, _ = c.Write([]byte(text))
		if old := open[i%len(open)]; old != nil {
			old.Close()
		}
		open[i%len(open)] = c
	}
}

// sendAgain sends packets that no key has made from an address until stop is closed.
func sendAgain(from net.IP, to string, stop <-chan struct{}) {
	c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: from}}).Dial("udp", to)
	if err != nil {
		return
	}
	defer c.Close()
	packet := make([]byte, 1200)
	packet[0] = 1
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
			_, _ = c.Write(packet)
		}
	}
}
