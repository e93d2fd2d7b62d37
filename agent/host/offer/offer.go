// Package offer answers whether this host would run an instance now. A steward
// asks before it claims the host, because only the host knows what its memory
// and its processor can really carry.
//
// An offer is no promise and reserves nothing: the rules of package claims decide
// about the claim that follows. So a Judge keeps no state and may answer any
// number of requests at once.
package offer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
	machine "virtmesh/agent/vmi"
)

// Ability is what a host can give guests.
type Ability struct {
	// Allocatable is what guests may use of the host.
	Allocatable machine.Resources
	// CPUModels are the CPU models that the processor can run.
	CPUModels []string
	// Emulator describes what guests can have besides a CPU model.
	Emulator machine.Emulator
}

// Judge decides for one host. Its fields must not change once it is in use.
type Judge struct {
	// Host is the name of the host.
	Host string
	// Ability returns what the host can give guests now, or an error that says why it can
	// give them nothing.
	Ability func() (Ability, error)
	// OnHost lists the claims on a host, as this host's copy of the store has
	// them.
	OnHost func(host string) []claims.Instance
	// Room returns why the host's file systems have no room for disks that end with their
	// instance, of so many bytes, and for volumes, by pool; nil if they have. Nil means that
	// nobody watches the file systems.
	Room func(ephemeral int64, pools map[string]int64) error
	// MayStart returns why no guest starts on the host now; nil if guests do. Nil means that
	// they always do.
	MayStart func() error
	// ReachesLeader reports whether this host learns of new claims and can act on them.
	ReachesLeader func(context.Context) bool
}

// Free returns what is left for further guests after the claims on this host; nothing while
// the host can give them nothing.
func (j *Judge) Free() machine.Resources {
	able, err := j.Ability()
	if err != nil {
		return machine.Resources{}
	}
	return j.freeWithout(able, "")
}

// freeWithout is what is free when the claim of one instance does not count.
func (j *Judge) freeWithout(able Ability, uid types.UID) machine.Resources {
	free := able.Allocatable
	for _, claim := range j.OnHost(j.Host) {
		if claim.UID != uid {
			free = free.Sub(claim.Resources)
		}
	}
	return free
}

// Offer answers a request. A refusal is an Offer with a reason; there is no
// other failure.
func (j *Judge) Offer(ctx context.Context, r claims.OfferRequest) (claims.Offer, error) {
	refuse := func(format string, args ...any) (claims.Offer, error) {
		return claims.Offer{Reason: fmt.Sprintf(format, args...)}, nil
	}
	if !j.ReachesLeader(ctx) {
		return refuse("the host does not reach the leader, and could not act on the claim")
	}
	able, err := j.Ability()
	if err != nil {
		return refuse("the host starts no guests now: %v", err)
	}
	if j.MayStart != nil {
		if err := j.MayStart(); err != nil {
			return refuse("the host starts no guests now: %v", err)
		}
	}
	if lacking := j.freeWithout(able, r.UID).Lacking(r.Resources); len(lacking) > 0 {
		return refuse("Insufficient %s", strings.Join(lacking, ", "))
	}
	if available := memoryAvailable(); available > 0 && available < r.Resources.MemoryBytes {
		return refuse("less memory is really free than its claims leave")
	}
	if takesRoom := len(r.Images) > 0 || r.Resources.EphemeralBytes > 0 || len(r.Pools) > 0; takesRoom && j.Room != nil {
		if err := j.Room(r.Resources.EphemeralBytes, r.Pools); err != nil {
			return refuse("%v", err)
		}
	}
	if r.CPUModel != "" && !slices.Contains(able.CPUModels, r.CPUModel) {
		return refuse("the processor cannot run CPU model %s", r.CPUModel)
	}
	if lacks := able.Emulator.Lacks(r.Needs); len(lacks) > 0 {
		return refuse("it has no %s", lacks[0].What)
	}
	return claims.Offer{Accepted: true}, nil
}

// memoryAvailable is the kernel's estimate of what can be used without
// swapping, 0 if it cannot be read.
func memoryAvailable() int64 {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return 0
	}
	info, err := proc.Meminfo()
	if err != nil || info.MemAvailableBytes == nil {
		return 0
	}
	return int64(*info.MemAvailableBytes)
}
