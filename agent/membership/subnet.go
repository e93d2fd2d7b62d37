package membership

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/agent/objects"
	"virtmesh/netplug"
	"virtmesh/raftstore"
)

// SubnetPrefix is the key prefix of the hosts' claims on the default guest network: one
// record per subnet, whose value is the host's name.
const SubnetPrefix = "/mesh/subnets/"

// KeyGuestNetwork holds the guestNetworkRecord of the mesh.
const KeyGuestNetwork = "/mesh/guest-network"

// guestNetworkRecord is the range of guests' addresses, one for the whole mesh. It is written
// once, and never changes: guests keep their addresses. The host that claims the first subnet
// writes it. In a mesh that is from before there was such a record, a host writes its range if
// that is the range of all others too.
type guestNetworkRecord struct {
	Range netip.Prefix `json:"range"`
}

// subnetBits is the prefix length of a host's subnet. Such a subnet has room for 253
// guests.
const subnetBits = 24

// ClaimSubnet returns this host's subnet of the default guest network, podCIDR, which must be
// the range of the mesh. A host keeps its subnet for as long as it is a member. The first
// start claims the lowest free one, if check allows guests to have the range on this host; two
// hosts can never claim the same. ClaimSubnet waits for the mesh for a bounded time.
func (m *Member) ClaimSubnet(ctx context.Context, podCIDR string, check func(guests netip.Prefix) error) (netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	all, err := netip.ParsePrefix(podCIDR)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("network.podCIDR: %w", err)
	}
	claim := subnetClaim{store: m.records, nodes: m.nodes, host: m.config.Name, all: all.Masked(), check: check}
	subnet, unrecorded, err := claim.claim(ctx)
	if err != nil || !unrecorded {
		return subnet, err
	}
	// The mesh is from before it kept its range. If it cannot be written now, a later start
	// writes it.
	ctx, cancel = context.WithTimeout(ctx, recordRangeTimeout)
	defer cancel()
	if err := claim.recordRange(ctx); err != nil {
		m.log.Warn("the range of guests' addresses is not in the mesh's state yet", "range", claim.all, "err", err)
	}
	return subnet, nil
}

// nodes returns the Nodes of all hosts.
func (m *Member) nodes(ctx context.Context) ([]*corev1.Node, error) {
	nodes, _, err := objects.List[*corev1.Node](ctx, objects.FromRaft(m.store, nil), "", raftstore.ReadOptions{})
	return nodes, err
}

// recordRangeTimeout bounds how long a start waits to write the range of a mesh that has none.
const recordRangeTimeout = 3 * time.Second

// subnetClaim is a host's wish for a subnet of the range of all guests.
type subnetClaim struct {
	store subnetStore
	nodes func(ctx context.Context) ([]*corev1.Node, error)
	host  string
	all   netip.Prefix
	check func(guests netip.Prefix) error
}

// recordRange writes the range of the mesh, unless there is one, or another host has a subnet
// outside of it. Whoever is the first to be upgraded, or joins an older mesh, must not set a
// range with which no other host can start.
func (c subnetClaim) recordRange(ctx context.Context) error {
	taken, err := c.lookUp(ctx, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if err := c.holdsAll(ctx, taken.others); err != nil {
		return err
	}
	op, err := c.rangeOp()
	if err != nil {
		return err
	}
	// A host that claims a subnet now takes the lowest free one, so it is not overlooked.
	_, err = c.store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: op.Key}, {Key: subnetKey(taken.free)}}, Ops: []raftstore.Op{op}})
	return err
}

// holdsAll returns an error unless the subnets of some hosts are within the range, as their
// Nodes have them.
func (c subnetClaim) holdsAll(ctx context.Context, hosts []string) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return fmt.Errorf("read the Nodes: %w", err)
	}
	subnets := map[string]string{}
	for _, node := range nodes {
		subnets[node.Name] = node.Spec.PodCIDR
	}
	for _, host := range hosts {
		subnet, err := netip.ParsePrefix(subnets[host])
		if err != nil {
			return fmt.Errorf("the Node of %s does not say yet which addresses its guests have", host)
		}
		if !c.all.Contains(subnet.Addr()) || subnet.Bits() < c.all.Bits() {
			return fmt.Errorf("guests of %s have %s, which is not in %s: network.podCIDR must be the same in agent.yaml of all hosts; correct it where it is wrong, with no guests on that host, and restart its agent", host, subnet, c.all)
		}
	}
	return nil
}

func (c subnetClaim) rangeOp() (raftstore.Op, error) {
	value, err := json.Marshal(guestNetworkRecord{Range: c.all})
	if err != nil {
		return raftstore.Op{}, fmt.Errorf("encode %s: %w", KeyGuestNetwork, err)
	}
	return raftstore.Op{Key: KeyGuestNetwork, Value: value}, nil
}

// guestNetwork returns the range of the mesh by this host's copy of its state; it is not valid
// if the mesh has none yet.
func guestNetwork(ctx context.Context, store subnetStore) (netip.Prefix, error) {
	list, err := store.List(ctx, raftstore.ListRequest{Prefix: KeyGuestNetwork, ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read the range of guests' addresses: %w", err)
	}
	if len(list.Records) == 0 {
		return netip.Prefix{}, nil
	}
	var r guestNetworkRecord
	if err := json.Unmarshal(list.Records[0].Value, &r); err != nil {
		return netip.Prefix{}, fmt.Errorf("read the range of guests' addresses: %w", err)
	}
	return r.Range, nil
}

// guestNetwork returns the range of the mesh's guests by this host's copy of its state; "" if
// the mesh keeps none, or the copy cannot be read.
func (m *Member) guestNetwork() string {
	mesh, err := guestNetwork(context.Background(), m.store)
	if err != nil || !mesh.IsValid() {
		return ""
	}
	return mesh.String()
}

// checkGuestNetwork returns a fault if a host cannot join that will use another range than the
// mesh. One that does not say which is of a version that has the default only.
func checkGuestNetwork(mesh, own string) error {
	own = cmp.Or(own, netplug.DefaultGuestNetwork)
	if mesh == "" || mesh == own {
		return nil
	}
	return fault.InField("guestNetwork", "guests of this mesh have %s, and the host that asks to join would give them %s", mesh, hostname.Clip(own)).
		WithRemedy("install the version of this mesh's hosts there, and join again")
}

// claim returns the host's subnet, and whether the mesh has no record of its range although
// hosts had subnets already.
func (c subnetClaim) claim(ctx context.Context) (subnet netip.Prefix, unrecorded bool, err error) {
	for {
		mesh, err := guestNetwork(ctx, c.store)
		if err != nil {
			return netip.Prefix{}, false, err
		}
		if mesh.IsValid() && mesh != c.all {
			return netip.Prefix{}, false, fmt.Errorf("network.podCIDR: guests of this mesh have %s, and not %s: correct the line in this host's agent.yaml; the range of a mesh cannot change", mesh, c.all)
		}
		// A host that was already a member reads its subnet from its own copy, so it
		// can start without a quorum.
		taken, err := c.lookUp(ctx, raftstore.ReadOptions{Consistency: raftstore.Local})
		if err != nil {
			return netip.Prefix{}, false, err
		}
		if taken.claimed {
			subnet, err := nthSubnet(c.all, taken.own)
			return subnet, err == nil && !mesh.IsValid(), err
		}
		subnet, unrecorded, err := c.claimFree(ctx, mesh.IsValid())
		var conflict *raftstore.ConflictError
		if !errors.As(err, &conflict) {
			return subnet, unrecorded, err
		}
	}
}

// claimFree claims the lowest free subnet. With the first one of the mesh it writes the range.
// It returns a *raftstore.ConflictError if another host was faster.
func (c subnetClaim) claimFree(ctx context.Context, recorded bool) (subnet netip.Prefix, unrecorded bool, err error) {
	taken, err := c.lookUp(ctx, raftstore.ReadOptions{})
	if err != nil {
		return netip.Prefix{}, false, err
	}
	if taken.claimed { // which this host's copy does not show yet
		subnet, err = nthSubnet(c.all, taken.own)
		return subnet, err == nil && !recorded, err
	}
	if subnet, err = nthSubnet(c.all, taken.free); err != nil {
		return netip.Prefix{}, false, err
	}
	if err := c.check(c.all); err != nil {
		return netip.Prefix{}, false, fmt.Errorf("network.podCIDR: %w", err)
	}
	key := subnetKey(taken.free)
	txn := raftstore.Txn{If: []raftstore.Condition{{Key: key}}, Ops: []raftstore.Op{{Key: key, Value: []byte(c.host)}}}
	if !recorded {
		op, err := c.rangeOp()
		if err != nil {
			return netip.Prefix{}, false, err
		}
		txn.If = append(txn.If, raftstore.Condition{Key: op.Key})
		if unrecorded = len(taken.others) > 0; !unrecorded {
			txn.Ops = append(txn.Ops, op)
		}
	}
	if _, err = c.store.Commit(ctx, txn); err != nil {
		return netip.Prefix{}, false, fmt.Errorf("claim a subnet: %w", err)
	}
	return subnet, unrecorded, nil
}

// takenSubnets are the claims of all hosts, as one host sees them.
type takenSubnets struct {
	// own is the number of the host's subnet, if it has claimed one.
	own     int
	claimed bool
	// free is the lowest number that no host has, and others are the other hosts that
	// have one.
	free   int
	others []string
}

func subnetKey(n int) string { return fmt.Sprintf("%s%05d", SubnetPrefix, n) }

// lookUp reads the claims of all hosts.
func (c subnetClaim) lookUp(ctx context.Context, opts raftstore.ReadOptions) (takenSubnets, error) {
	list, err := c.store.List(ctx, raftstore.ListRequest{Prefix: SubnetPrefix, ReadOptions: opts})
	if err != nil {
		return takenSubnets{}, fmt.Errorf("read the hosts' subnets: %w", err)
	}
	var all takenSubnets
	numbers := map[int]bool{}
	for _, record := range list.Records {
		n, err := strconv.Atoi(record.Key[len(SubnetPrefix):])
		if err != nil {
			return takenSubnets{}, fmt.Errorf("read the hosts' subnets: %w", err)
		}
		numbers[n] = true
		if string(record.Value) == c.host {
			all.own, all.claimed = n, true
		} else {
			all.others = append(all.others, string(record.Value))
		}
	}
	for numbers[all.free] {
		all.free++
	}
	return all, nil
}

// nthSubnet returns the nth subnet of a network.
func nthSubnet(all netip.Prefix, n int) (netip.Prefix, error) {
	if n >= 1<<(subnetBits-all.Bits()) {
		return netip.Prefix{}, fmt.Errorf("network.podCIDR %s has room for %d hosts only", all, 1<<(subnetBits-all.Bits()))
	}
	base := all.Masked().Addr().As4()
	value := binary.BigEndian.Uint32(base[:]) + uint32(n)<<(32-subnetBits)
	binary.BigEndian.PutUint32(base[:], value)
	return netip.PrefixFrom(netip.AddrFrom4(base), subnetBits), nil
}

// subnetStore is the part of the store that subnet claims use.
type subnetStore interface {
	Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error)
	List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error)
}

// releaseSubnet releases the subnet of a host that left.
func releaseSubnet(ctx context.Context, store subnetStore, host string) error {
	list, err := store.List(ctx, raftstore.ListRequest{Prefix: SubnetPrefix})
	if err != nil {
		return fmt.Errorf("read the hosts' subnets: %w", err)
	}
	for _, record := range list.Records {
		if string(record.Value) != host {
			continue
		}
		_, err := store.Commit(ctx, raftstore.Txn{
			If:  []raftstore.Condition{{Key: record.Key, ModRevision: record.ModRevision}},
			Ops: []raftstore.Op{{Key: record.Key, Delete: true}},
		})
		if err != nil {
			return fmt.Errorf("release the subnet of %s: %w", host, err)
		}
	}
	return nil
}
