// Command bench measures virtmesh against its budgets and against what it is
// compared with, on the machine it runs on. It prints one line a figure, 'name
// value unit', and writes all of them with their budgets to a JSON file.
// A figure that could not be measured is left out, and the exit status says so.
//
// # The store beside etcd (group store)
//
// Three members of raftstore and three of Debian's etcd, each a process of its
// own with a log on the same disk, talk over loopback without TLS. Both are
// driven by the same client: etcd's own, over gRPC, straight to the leader, on
// at most 16 connections. A member of raftstore serves that protocol with a
// thin layer over Store.Commit and Store.Get. Values have 1 KiB, keys are drawn
// from 20,000 that all exist. In a round each system is measured at each load
// right after the other, taking turns in going first, on members started for
// that round; ratios are taken within a round, and their median is the figure.
//
// CPU time is that of the three members for one operation: other work on the machine, which
// takes processors from both systems, changes it least.
//
// Its limits: servers and client share the machine's processors. Both snapshot
// by their defaults, which differ: raftstore every 16,384 entries or 64 MiB of
// log, etcd every 100,000 entries, but etcd writes all data to its database
// besides. etcd keeps every version of a key until told to compact, raftstore a
// bounded window. raftstore's members start with short waits before a replica
// may vote; all else is as in an agent. The agent's own API is not part of this.
//
// # Large groups (group replicas)
//
// Groups of 3, 9, 33 and 500 replicas (-sizes). Five vote (three of three), and the others
// follow outside the Raft configuration. The leader is a process of its own, which writes
// one entry of 8 KiB after the other. The next eight, among them the other voters, are a
// second process, and all others a third one with a low priority, since on hosts of their own
// they would not compete with the voters for processors. What the leader uses for an entry,
// in CPU time and in copies sent, is without what it uses at rest. Replicas sign what they say
// of their state as hosts do; logs are in memory and nothing is encrypted. All processors are
// shared, so entries per second say little about 500 hosts.
// Leases are renewed at one of three replicas, by 500 hosts at once.
//
// In the largest group, a follower that feeds others loses its power: how long until an entry
// that is written then is everywhere else (rehang). Then all but nine hosts lose their power,
// 100 entries are written, and all are switched on at once: how long until they have
// everything, and how many copies the leader has sent by then (boot_storm).
//
// # Placement (group placement)
//
// Whole decisions (prepare the request, filter, score, record the outcome) on
// one goroutine, on 1,000 hosts with 5,000 instances, and with all constraints at
// once on 5,000 hosts with 25,000. Offers and claims, which follow a decision, are
// not part of these figures.
//
// Then whole placements: 32 clients create 10,000 instances as fast as they get
// answers, and the time ends when each has its claim. There are three replicas
// with logs on disk, each with the caches and the steward of an agent, in one
// process and on an in-memory network. 500 hosts are known by facts, some of
// which change all the time, and their offers come from the judge that an agent
// uses. A real mesh has more stewards, each with fewer instances, and the way to
// a host and back for each offer. The log is what a host that was away meanwhile
// needs; its budget is what stays of the log behind a snapshot.
//
// # Membership (group gossip)
//
// Real members on a simulated network in simulated time, 5% of its packets
// lost: how long until every member knows of a death, and how many lived that
// were declared dead. It is the worst of five deaths among 100 members, and a
// single one among 1,000, which takes minutes of CPU. The network has no latency.
//
// # An agent in a large mesh (group scale)
//
// An agent in a process of its own: a replica on disk, the caches, all stewards and the
// API, on 500 hosts with 100 and with 10,000 running machines. Each machine has the
// records that a lab stored for one (the files in records), its claims, and two events.
// The agent is the only replica, and has neither libvirt nor guests: what those take
// depends on the host, not on the mesh. Memory is read half a minute after the start, and
// half a minute after ten clients have listed all machines, instances, claims, events and
// Nodes, each list in one piece, while they watch them. Between lies a rest of 20 s,
// whose CPU is measured. BENCH_PROFILE names a file for a profile of the heap.
//
// # Watches of many objects (group watch)
//
// The same agent with 100,000 events, and the Go client over HTTP without TLS, typed, as
// informers use it (protobuf, and JSON, which KubeVirt's kinds have alone), and for
// metadata only. A watch is open when its first event is there: from the revision before
// the last event, and with all events as initial ones, for which the budget is the same.
// The time until the last of them has come is that of encoding, sending and decoding them
// all. What an informer begins with is measured without decoding, too: a list of all events in
// one piece (first_list), and a watch up to the bookmark behind its initial events (first_watch);
// the client throws away what it reads, and is on the same processors as the agent. The memory
// of a watch is what the agent keeps more with it, after a garbage
// collection: one to which nothing happens, and one whose client reads none of its
// initial events.
//
// # A host that follows (group follower)
//
// Two such agents, on hosts of a mesh of 500 with 10,000 running machines: the first one leads, and
// the second joins and follows. How long it takes until the second has the state, and what
// it receives by then: the log as it is right after the machines were written. Then its
// CPU at rest, with all caches, stewards and the API.
//
// # Guests' networks (group network)
//
// What the packet filter and the gate cost a packet of the default network: the same packets,
// of 64 bytes, through a plain bridge with masquerading (plain), through what an agent makes
// (guarded), and through that without the gate (ungated), from guest to guest (guest) and from a
// guest to the hosts' network (out). Each is in a network namespace of its own. A packet
// goes from one file to another through two taps, so neither QEMU nor a guest is part of it. The
// processor time is that of the thread that sends, in which the kernel does all of the way up to
// the queue of the second tap. Packets per second are those of one flow on one thread that also
// takes them. Connections are set up once for each, so the figures say nothing about that.
//
// # A mesh (group lab)
//
// Three lab hosts run real agents, libvirt and guests. The time from the API's
// answer to a create until a watch shows the instance Running is compared with
// 'virsh create' of the same domain on the same host, as a whole command: that
// includes the start of virsh, but not the making of the disk and the tap. Log
// entries are what the leader has applied once nothing more is written, without
// and with the machine's own status after its instance ran, and those of a minute in
// which one machine runs and nothing happens. Memory is the largest of the three agents' once 100
// halted machines exist.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	binary  string
	out     string
	only    string
	rounds  int
	seconds float64
	dir     string
	labDir  string
	creates int
	sizes   sizes
}

// group is a set of figures that are measured together.
type group struct {
	name string
	run  func(context.Context, *options, *report) error
}

var groups = []group{
	{"store", runStore},
	{"replicas", runReplicas},
	{"placement", runPlacement},
	{"gossip", runGossip},
	{"scale", runScale},
	{"follower", runFollower},
	{"watch", runWatch},
	{"network", runNetwork},
	{"lab", runLab},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := start(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// start runs the benchmarks, or one of the parts that need a process of their own.
func start(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case memberCommand:
			return runMember(ctx, os.Stdin)
		case replicasCommand:
			return runReplicaProcess(ctx, os.Stdin, os.Stdout)
		case simulateCommand:
			return simulate(args[1:])
		case networkCommand:
			return runNetworkMember(ctx, args[1:])
		case agentCommand:
			return runAgent(ctx, args[1:], os.Stdin)
		}
	}
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	return run(ctx, o)
}

func parse(args []string, w io.Writer) (*options, error) {
	o := &options{sizes: sizes{3, 9, 33, 500}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(w)
	f.StringVar(&o.binary, "binary", "bin/virtmesh", "the virtmesh to measure in a lab")
	f.StringVar(&o.out, "out", "bench.json", "file to write the figures to")
	f.StringVar(&o.only, "only", "", "groups to measure, with commas between: "+groupNames()+" (default all)")
	f.IntVar(&o.rounds, "rounds", 3, "rounds of the store's comparison; 5 for a gate")
	f.Float64Var(&o.seconds, "seconds", 5, "seconds a load is measured in a round; 15 for a gate")
	f.StringVar(&o.dir, "dir", "", "where the store's members keep their data (default a temporary directory)")
	f.StringVar(&o.labDir, "lab-dir", "/var/lib/vm-bench", "where the lab lives; it is ended afterwards")
	f.IntVar(&o.creates, "creates", 20, "machines to create in the lab, one by one")
	f.Var(&o.sizes, "sizes", "how many replicas the groups have whose leader is measured")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.rounds < 1 || o.seconds <= 0 || o.creates < 1 {
		return nil, errors.New("-rounds, -seconds and -creates must be positive")
	}
	_, err := chosen(o.only)
	return o, err
}

func groupNames() string {
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = g.name
	}
	return strings.Join(names, ",")
}

// chosen returns the groups that a list names, in the order they run.
func chosen(only string) ([]group, error) {
	if only == "" {
		return groups, nil
	}
	names := strings.Split(only, ",")
	for _, name := range names {
		if !slices.ContainsFunc(groups, func(g group) bool { return g.name == name }) {
			return nil, fmt.Errorf("-only: there is no group %q, only %s", name, groupNames())
		}
	}
	return slices.DeleteFunc(slices.Clone(groups), func(g group) bool { return !slices.Contains(names, g.name) }), nil
}

// run measures the chosen groups. One that fails does not keep the others from
// running.
func run(ctx context.Context, o *options) error {
	list, err := chosen(o.only)
	if err != nil {
		return err
	}
	r := &report{w: os.Stdout}
	var errs []error
	for _, g := range list {
		began := time.Now()
		progressf("%s ...", g.name)
		if err := g.run(ctx, o, r); err != nil {
			progressf("%s failed: %v", g.name, err)
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
		}
		progressf("%s took %s", g.name, time.Since(began).Round(time.Second))
		if ctx.Err() != nil {
			break
		}
	}
	r.summary(os.Stderr)
	if err := r.err(); err != nil {
		errs = append(errs, err)
	}
	if err := r.save(o.out); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// progressf tells what is going on, on stderr.
func progressf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
