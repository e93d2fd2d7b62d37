package guestservices_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
	"virtmesh/netplug/guestservices"
	"virtmesh/netplug/netplugtest"
	"virtmesh/storage/durable"
)

// TestMain lets the program of the tests stand for the product's, and for a guest that asks.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "guest-services":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := guestservices.Run(ctx, guestservices.Config{
			Dir: os.Args[3], Build: guestservices.BuildOf("test", guestservices.Self), Inherited: guestservices.Inherited(),
			Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "ask":
		if err := askAll(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

const (
	asks     = 1000
	askEvery = 2 * time.Millisecond
	patience = 20 * time.Second
)

// askAll sends queries for a name at a steady rate, each once, and says how many got their
// answer and how long the slowest took.
func askAll(server, name string) error {
	conn, err := net.Dial("udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make([]time.Time, asks)
	var mu sync.Mutex
	var reading sync.WaitGroup
	got, slowest := map[uint16]bool{}, time.Duration(0)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	reading.Go(func() {
		buf := make([]byte, 1500)
		for len(got) < asks {
			n, err := conn.Read(buf)
			if errors.Is(err, syscall.ECONNREFUSED) {
				continue
			}
			if err != nil {
				return
			}
			m := new(mdns.Msg)
			if m.Unpack(buf[:n]) == nil && m.Rcode == mdns.RcodeSuccess && len(m.Answer) == 1 {
				mu.Lock()
				got[m.Id], slowest = true, max(slowest, time.Since(sent[m.Id]))
				mu.Unlock()
			}
		}
	})
	for i := range asks {
		q := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
		q.Id = uint16(i)
		packet, err := q.Pack()
		if err != nil {
			return err
		}
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		_, _ = conn.Write(packet) // refused while nobody listens, and then not answered
		if i == asks/10 {
			fmt.Println("asking")
		}
		time.Sleep(askEvery) // the rate of the queries
	}
	reading.Wait()
	fmt.Printf("%d answers, the slowest after %s\n", len(got), slowest.Round(time.Millisecond))
	return nil
}

// bed is a host with a guest on a bridge, whose requests a process answers.
type bed struct {
	t     *testing.T
	dir   string
	guest *netplugtest.Host
	state guestservices.State
	log   *os.File
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, guest: netplugtest.NewHost(t)}
	for _, args := range []string{
		"link add br0 type bridge", "addr add 10.9.0.1/24 dev br0", "link set br0 up",
		"link add tap0 type veth peer name eth0 netns " + b.guest.PID(), "link set tap0 master br0", "link set tap0 up",
	} {
		netplugtest.Run(t, "ip", strings.Fields(args)...)
	}
	b.guest.Run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:01")
	b.guest.Run("ip", "link", "set", "eth0", "up")
	b.guest.Run("ip", "addr", "add", "10.9.0.9/24", "dev", "eth0")
	// Not below t.TempDir, which the process's user cannot reach.
	folder, err := os.MkdirTemp("", "guests")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	b.dir = filepath.Join(folder, "shared")
	if b.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guestservices.Forget(b.dir); err != nil {
			t.Error(err)
		}
		b.await("the process to end", func() bool { return b.pid() == 0 })
		os.RemoveAll(folder)
		if text, err := os.ReadFile(b.log.Name()); err == nil && t.Failed() {
			t.Logf("the process says:\n%s", text)
		}
	})
	gateway := netip.MustParsePrefix("10.9.0.1/24")
	b.state = guestservices.State{
		Bridges: []guestservices.Bridge{{Name: "br0", Gateway: gateway, DNS: true, DHCP: &dhcp.Pool{Gateway: gateway, Reservations: []dhcp.Reservation{
			{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Address: netip.MustParseAddr("10.9.0.9"), Hostname: "guest"},
		}}}},
		Zone: dns.Zone{Domain: "vm.example", Records: map[string][]netip.Addr{"a.ns": {netip.MustParseAddr("10.9.0.9")}}},
	}
	return b
}

// agent returns a new agent's client, which runs a program.
func (b *bed) agent(program string, reg prometheus.Registerer) *guestservices.Client {
	b.t.Helper()
	account, err := guestservices.FindAccount()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.agentWith(account, program, reg)
}

func (b *bed) agentWith(account guestservices.Account, program string, reg prometheus.Registerer) *guestservices.Client {
	b.t.Helper()
	log := slog.New(slog.NewTextHandler(b.log, nil))
	c, err := guestservices.NewClient(guestservices.ClientConfig{
		Dir: b.dir, Account: account, Build: guestservices.BuildOf("test", program), Program: program, WriteFile: durable.WriteFile,
		Start: guestservices.Launcher{Dir: b.dir, Account: account, Logger: log, Stderr: b.log}.Start, Logger: log, Registerer: reg,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bed) set(c *guestservices.Client) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if failed := c.Set(ctx, b.state); len(failed) > 0 {
		b.t.Fatalf("failed are %v", failed)
	}
}

// pid is the process that serves the folder, 0 if there is none.
func (b *bed) pid() int {
	out, err := exec.Command("pgrep", "--full", "^virtmesh guest-services --dir "+b.dir).Output()
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	return pid
}

func (b *bed) await(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// lookup asks for the name a.ns as the guest, once.
func (b *bed) lookup() string {
	return b.guest.Run("busybox", "nslookup", "-type=a", "a.ns.vm.example", "10.9.0.1")
}

// lease asks for the guest's address as the guest.
func (b *bed) lease() string {
	return b.guest.Run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", "/bin/true")
}

func (b *bed) isServed() {
	b.t.Helper()
	if out := b.lookup(); !strings.Contains(out, "10.9.0.9") {
		b.t.Errorf("the guest looks a name up: %s", out)
	}
	if out := b.lease(); !strings.Contains(out, "lease of 10.9.0.9 obtained") {
		b.t.Errorf("the guest asks for its address: %s", out)
	}
}

// TestProcess takes a process through its life: the agent starts it, and is replaced, and is
// away; the file is spoilt; the process is killed; the host leaves its mesh.
func TestProcess(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	reg := prometheus.NewRegistry()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.set(b.agent(own, reg))
	b.isServed()
	pid := b.pid()
	if out := netplugtest.Run(t, "stat", "-c", "%a %u %g", b.dir, filepath.Join(b.dir, "state.json")); out != "3770 0 65530\n640 0 65530\n" {
		t.Errorf("the folder and the file have the modes and owners\n%s", out)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"\nUid:\t65530", "\nGid:\t65530", "\nCapEff:\t0000000000000400"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("the process has not %q:\n%s", line, status)
		}
	}
	if families, err := reg.Gather(); err != nil || len(families) != 3 {
		t.Errorf("the agent exports %v, %v", families, err)
	}

	// The agent is away: no client is used. What is spoilt is not answered from.
	path := filepath.Join(b.dir, "state.json")
	if err := durable.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.isServed()

	// A new agent finds the process, and has it answer from what it writes.
	agent := b.agent(own, nil)
	b.state.Zone.Records["b.ns"] = []netip.Addr{netip.MustParseAddr("10.9.0.10")}
	b.set(agent)
	if out := b.guest.Run("busybox", "nslookup", "-type=a", "b.ns.vm.example", "10.9.0.1"); !strings.Contains(out, "10.9.0.10") {
		t.Errorf("a new name: %s", out)
	}
	if now := b.pid(); now != pid {
		t.Errorf("the process is %d, and was %d", now, pid)
	}

	// A bridge that is made anew is served again without the agent.
	netplugtest.Run(t, "ip", "link", "delete", "br0")
	for _, args := range []string{"link add br0 type bridge", "addr add 10.9.0.1/24 dev br0", "link set br0 up", "link set tap0 master br0"} {
		netplugtest.Run(t, "ip", strings.Fields(args)...)
	}
	b.await("the bridge to be served again", func() bool {
		out, err := exec.Command("nsenter", "-t", b.guest.PID(), "-n", "busybox", "nslookup", "-type=a", "a.ns.vm.example", "10.9.0.1").Output()
		return err == nil && strings.Contains(string(out), "10.9.0.9")
	})

	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.await("the process to be started again", func() bool { return len(agent.Set(t.Context(), b.state)) == 0 })
	b.isServed()
}

// TestRenewal replaces the program under a guest that asks all the time: no query is lost.
func TestRenewal(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	later := filepath.Join(t.TempDir(), "later") // a path that the process's user cannot reach
	netplugtest.Run(t, "cp", own, later)
	b.set(b.agent(own, nil))
	pid := b.pid()

	asking := exec.Command("nsenter", "-t", b.guest.PID(), "-n", own, "ask", "10.9.0.1", "a.ns.vm.example.")
	out, err := asking.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := asking.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("asking\n"))
	if _, err := out.Read(said); err != nil {
		t.Fatal(err)
	}
	b.set(b.agent(later, nil))
	rest := make([]byte, 200)
	n, _ := out.Read(rest)
	if err := asking.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", rest[:n])
	if !strings.HasPrefix(string(rest[:n]), fmt.Sprintf("%d answers", asks)) {
		t.Errorf("of %d queries: %s", asks, rest[:n])
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || program != later {
		t.Errorf("process %d runs %s, %v", pid, program, err)
	}
	b.isServed()

	// What is no program changes nothing.
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.agent(broken, nil).Set(t.Context(), b.state)
	b.isServed()
	if now := b.pid(); now != pid {
		t.Errorf("the process is %d, and was %d", now, pid)
	}
}

// TestProcessOfAnotherUserIsReplaced has an agent find a process from before there was an
// account for it, alive or with only its files left. Guests are answered by one of the
// account.
func TestProcessOfAnotherUserIsReplaced(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := guestservices.Account{UID: 65531, GID: 65531}
	for _, alive := range []bool{true, false} {
		b.set(b.agentWith(before, own, nil))
		old := b.pid()
		if !alive {
			if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			b.await("the process to end", func() bool { return b.pid() == 0 })
		}
		b.set(b.agent(own, nil))
		if out := netplugtest.Run(t, "stat", "-c", "%u", fmt.Sprintf("/proc/%d", b.pid())); out != "65530\n" {
			t.Errorf("guests are answered by user %s", out)
		}
		b.isServed()
	}
}
