package membership

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"virtmesh/raftstore"
)

// SubnetPrefix is the key prefix of the hosts' claims on the default guest network: one
// record per subnet, whose value is the host's name.
const SubnetPrefix = "/mesh/subnets/"

// subnetBits is the prefix length of a host's subnet. Such a subnet has room for 253
// guests.
const subnetBits = 24

// ClaimSubnet returns this host's subnet of the default guest network, podCIDR. A host
// keeps its subnet for as long as it is a member. The first start claims the lowest
// free one; two hosts can never claim the same. ClaimSubnet waits for the mesh for a
// bounded time.
func (m *Member) ClaimSubnet(ctx context.Context, podCIDR string) (netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	return claimSubnet(ctx, m.records, m.config.Name, podCIDR)
}

func claimSubnet(ctx context.Context, store subnetStore, host, podCIDR string) (netip.Prefix, error) {
	all, err := netip.ParsePrefix(podCIDR)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("network.podCIDR: %w", err)
	}
	for {
		// A host that was already a member reads its subnet from its own copy, so it
		// can start without a quorum.
		list, err := store.List(ctx, raftstore.ListRequest{Prefix: SubnetPrefix, ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("read the hosts' subnets: %w", err)
		}
		taken := map[int]bool{}
		for _, record := range list.Records {
			n, err := strconv.Atoi(record.Key[len(SubnetPrefix):])
			if err != nil {
				return netip.Prefix{}, fmt.Errorf("read the hosts' subnets: %w", err)
			}
			if string(record.Value) == host {
				return nthSubnet(all, n)
			}
			taken[n] = true
		}
		n := 0
		for taken[n] {
			n++
		}
		prefix, err := nthSubnet(all, n)
		if err != nil {
			return netip.Prefix{}, err
		}
		key := fmt.Sprintf("%s%05d", SubnetPrefix, n)
		_, err = store.Commit(ctx, raftstore.Txn{
			If: []raftstore.Condition{{Key: key}}, Ops: []raftstore.Op{{Key: key, Value: []byte(host)}},
		})
		var conflict *raftstore.ConflictError
		if errors.As(err, &conflict) {
			continue
		}
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("claim a subnet: %w", err)
		}
		return prefix, nil
	}
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
