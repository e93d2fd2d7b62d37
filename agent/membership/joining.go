package membership

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

const (
	// JoinTimeout bounds how long a starting agent looks for its mesh before it continues
	// alone: it must take care of its guests in any case.
	JoinTimeout = 30 * time.Second
	// rejoinTimeout is JoinTimeout for a host that has a copy of the mesh's state. Such a
	// host can serve without the others, and keeps asking them while it does.
	rejoinTimeout = 5 * time.Second
	// JoinPause is the minimum time between two rounds of asking for a copy.
	JoinPause = 5 * time.Second
)

// Joining is how an agent that starts finds its mesh and becomes a replica of its state.
// Whole meshes in one process join in the same way, so it knows neither certificates nor
// servers.
type Joining struct {
	Gossip *gossip.Gossip
	Store  *raftstore.Store
	Peers  *Peers
	Log    *slog.Logger
	// AskWhyRefused returns an error if a host that can be reached does not admit this one:
	// fault.Expelled if that is final.
	AskWhyRefused func(ctx context.Context) error
	// Wait waits, for JoinPause, before the others are asked for a copy again. why says why
	// none was had.
	Wait func(ctx context.Context, why error) error
}

// JoinGossip announces this host to the other hosts. It is no error if no host answers:
// when a whole mesh was switched off, one host starts first.
func (j Joining) JoinGossip(ctx context.Context) {
	var addresses []string
	for _, seed := range j.Peers.Seeds() {
		addresses = append(addresses, seed.GossipAddress)
	}
	if len(addresses) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	if _, err := j.Gossip.Join(ctx, addresses); err != nil {
		j.Log.Warn("no other host answers yet", "tried", addresses, "err", err)
	}
}

// JoinStore makes this host a replica, or reports its address to the group if it already is
// one. A host with a copy of the store continues with the copy when no other host answers;
// a host without a copy waits for one.
func (j Joining) JoinStore(parent context.Context) error {
	if !j.Store.Joined() {
		return j.awaitCopy(parent)
	}
	var addresses []string
	for _, seed := range j.Peers.Seeds() {
		addresses = append(addresses, seed.MeshAddress)
	}
	if len(addresses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	err := j.Store.Join(ctx, addresses)
	if failed := j.Store.Err(); failed != nil {
		return failed
	}
	if err == nil || j.Store.IsLeader() {
		return nil
	}
	// The other hosts may be starting too. The store keeps looking for a leader, and
	// operations that need a leader wait for it.
	j.Log.Warn("the mesh does not answer yet", "err", err)
	ctx, cancel = context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	refused := j.AskWhyRefused(ctx)
	if errors.Is(refused, fault.Expelled) {
		return refused
	}
	if refused != nil {
		j.Log.Error("the mesh does not take this host", "err", refused)
	}
	return nil
}

// awaitCopy asks the other hosts to accept this one as a replica until they do. It
// fails only when ctx ends or the replica fails.
//
// A host whose copy of the mesh's state is empty must not act: in an empty store every
// guest on the host would look unwanted. The host is new, or its copy was lost or
// deleted; in both cases other hosts have the state. So the host asks them, and waits.
// Guests continue to run.
func (j Joining) awaitCopy(ctx context.Context) error {
	for {
		err := j.askForCopy(ctx)
		if err == nil {
			return nil
		}
		if failed := j.Store.Err(); failed != nil {
			return failed
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		refused := j.AskWhyRefused(ctx)
		if errors.Is(refused, fault.Expelled) {
			return refused
		}
		if refused != nil {
			err = refused // not only that they do not answer
		}
		if err := j.Wait(ctx, err); err != nil {
			return err
		}
		if len(j.Peers.otherLive()) == 0 {
			j.JoinGossip(ctx)
		}
	}
}

func (j Joining) askForCopy(ctx context.Context) error {
	addresses := j.Peers.MeshAddresses()
	if len(addresses) == 0 {
		return errNoOther
	}
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	return j.Store.Join(ctx, addresses)
}

var errNoOther = errors.New("no other host is known; if none has the state, restore a backup with 'virtmesh agent recover --backup FILE'")
