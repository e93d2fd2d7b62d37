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

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/netplug"
	"virtmesh/raftstore"
)

// SubnetPrefix is the key prefix of the hosts' claims on the default guest network: one
// record per subnet, whose value is the host's name.
const SubnetPrefix = "/mesh/subnets/"

// KeyGuestNetwork holds the guestNetworkRecord of the mesh.
const KeyGuestNetwork = "/mesh/guest-network"

// guestNetworkRecord is the range of guests' addresses, one for the whole mesh. It is written
// once, with the first subnet, and never changes: guests keep their addresses.
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
	claim := subnetClaim{store: m.records, host: m.config.Name, all: all.Masked(), check: check}
	subnet, unrecorded, err := claim.claim(ctx)
	if err != nil || !unrecorded {
		return subnet, err
	}
	// The mesh is from before it kept its range. Without a quorum a later start writes it.
	ctx, cancel = context.WithTimeout(ctx, recordRangeTimeout)
	defer cancel()
	if err := claim.recordRange(ctx); err != nil {
		m.log.Warn("the range of guests' addresses is not in the mesh's state yet", "err", err)
	}
	return subnet, nil
}

// recordRangeTimeout bounds how long a start waits to write the range of a mesh that has none.
const recordRangeTimeout = 3 * time.Second

// subnetClaim is a host's wish for a subnet of the range of all guests.
type subnetClaim struct {
	store subnetStore
	host  string
	all   netip.Prefix
	check func(guests netip.Prefix) error
}

// recordRange writes the range of the mesh, unless there is one.
func (c subnetClaim) recordRange(ctx context.Context) error {
	op, err := c.rangeOp()
	if err != nil {
		return err
	}
	_, err = c.store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: op.Key}}, Ops: []raftstore.Op{op}})
	return err
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
// the host had a subnet already.
func (c subnetClaim) claim(ctx context.Context) (subnet netip.Prefix, unrecorded bool, err error) {
	store, all := c.store, c.all
	for {
		mesh, err := guestNetwork(ctx, store)
		if err != nil {
			return netip.Prefix{}, false, err
		}
		if mesh.IsValid() && mesh != all {
			return netip.Prefix{}, false, fmt.Errorf("network.podCIDR: guests of this mesh have %s, and not %s: correct the line in this host's agent.yaml; the range of a mesh cannot change", mesh, all)
		}
		// A host that was already a member reads its subnet from its own copy, so it
		// can start without a quorum.
		n, claimed, err := c.lookUp(ctx)
		if err != nil {
			return netip.Prefix{}, false, err
		}
		subnet, err := nthSubnet(all, n)
		if err != nil || claimed {
			return subnet, err == nil && !mesh.IsValid(), err
		}
		if err := c.check(all); err != nil {
			return netip.Prefix{}, false, fmt.Errorf("network.podCIDR: %w", err)
		}
		key := fmt.Sprintf("%s%05d", SubnetPrefix, n)
		txn := raftstore.Txn{If: []raftstore.Condition{{Key: key}}, Ops: []raftstore.Op{{Key: key, Value: []byte(c.host)}}}
		if !mesh.IsValid() {
			op, err := c.rangeOp()
			if err != nil {
				return netip.Prefix{}, false, err
			}
			txn.If, txn.Ops = append(txn.If, raftstore.Condition{Key: op.Key}), append(txn.Ops, op)
		}
		_, err = store.Commit(ctx, txn)
		var conflict *raftstore.ConflictError
		if errors.As(err, &conflict) {
			continue
		}
		if err != nil {
			return netip.Prefix{}, false, fmt.Errorf("claim a subnet: %w", err)
		}
		return subnet, false, nil
	}
}

// lookUp returns the number of the host's subnet by this host's copy of the state, or the
// lowest free one if it has claimed none.
func (c subnetClaim) lookUp(ctx context.Context) (n int, claimed bool, err error) {
	list, err := c.store.List(ctx, raftstore.ListRequest{Prefix: SubnetPrefix, ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
	if err != nil {
		return 0, false, fmt.Errorf("read the hosts' subnets: %w", err)
	}
	taken := map[int]bool{}
	for _, record := range list.Records {
		n, err := strconv.Atoi(record.Key[len(SubnetPrefix):])
		if err != nil {
			return 0, false, fmt.Errorf("read the hosts' subnets: %w", err)
		}
		if string(record.Value) == c.host {
			return n, true, nil
		}
		taken[n] = true
	}
	for taken[n] {
		n++
	}
	return n, false, nil
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
