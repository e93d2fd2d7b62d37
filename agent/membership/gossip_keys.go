package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

const (
	// gossipKeysPause is how often the record of the gossip keys is looked at. A look reads
	// only this host's copy.
	gossipKeysPause = 2 * time.Second
	// askKeysPause and maxAskKeysPause are the time between two rounds of asking other
	// hosts for the keys that they have.
	askKeysPause    = 10 * time.Second
	maxAskKeysPause = time.Minute
	// askedForKeys is how many hosts are asked in a round.
	askedForKeys = 3
	// confirmKeys bounds the question which keys the mesh has now.
	confirmKeys = 5 * time.Second
)

// gossipKeys makes this host encrypt gossip with the keys that the mesh has in its state. A
// host that was off, or cut off, while they were replaced has only keys that nobody else
// accepts: it hears some hosts no more, or none. It asks those over the mesh port, where its
// certificate says who it is, and gossips with the keys that it gets.
type gossipKeys struct {
	store    identity.Store
	identity *identity.Identity
	// set gives gossip its keys.
	set func(keys [][]byte) error
	// unheard returns the names of the other hosts that gossip does not hear.
	unheard func() []string
	// others returns the names of all other hosts.
	others func() []string
	// ask returns the keys that a host has.
	ask func(ctx context.Context, host string) (identity.GossipKeyring, error)
	log *slog.Logger

	unset  bool          // gossip has not taken the keys on disk yet
	asked  time.Time     // the last round of asking
	pause  time.Duration // until the next one
	missed []string      // who was not heard in the last round
}

// startGossipKeys asks the other hosts for newer keys once, before this host looks for them
// by gossip, and keeps the keys until the member is closed.
func (m *Member) startGossipKeys(ctx context.Context) error {
	keeper := m.gossipKeys()
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	keeper.keepKeys(asking)
	cancel()
	ctx, cancel = context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(gossipKeysPause):
				keeper.keepKeys(ctx)
			}
		}
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

func (m *Member) gossipKeys() *gossipKeys {
	return &gossipKeys{
		store: m.records, identity: m.identity, set: m.gossip.SetKeys, unheard: m.peers.unheardHosts, others: m.peers.otherHosts,
		ask: m.voters.GossipKeys, log: m.log.With("part", "gossip"),
	}
}

// unheardHosts returns the names of the other hosts of the mesh that gossip does not hear.
func (p *Peers) unheardHosts() []string {
	heard := p.heardHosts()
	return slices.DeleteFunc(p.otherHosts(), func(name string) bool { return slices.Contains(heard, name) })
}

// otherHosts returns the names of the other hosts of the mesh.
func (p *Peers) otherHosts() (names []string) {
	for _, seed := range p.Seeds() {
		if seed.Host != p.self {
			names = append(names, seed.Host)
		}
	}
	return names
}

// keepKeys takes the keys that the mesh has, as far as this host can learn them now.
func (k *gossipKeys) keepKeys(ctx context.Context) {
	err := k.followRecord(ctx)
	ask := k.unheard()
	if errors.Is(err, identity.ErrNotSeeded) {
		err = nil // this host has no copy of the mesh's state yet, and learns of no change from it
		ask = k.others()
	}
	if err = errors.Join(err, k.askForKeys(ctx, ask)); err != nil && ctx.Err() == nil {
		k.log.Warn("this host may not have the mesh's gossip keys", "err", err)
	}
}

// followRecord takes the keys in the mesh's state. The copy of a host that comes back is
// older than the keys that it was given: then the mesh is asked.
func (k *gossipKeys) followRecord(ctx context.Context) error {
	rec, err := identity.ReadGossip(ctx, k.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return err
	}
	if rec.Generation < k.identity.GossipKeyring().Generation {
		if rec, err = k.confirmed(ctx); err != nil {
			return nil // the next look asks again
		}
	}
	return k.takeKeys(rec.GossipKeyring)
}

// confirmed reads the keys that the mesh has now, which needs a leader.
func (k *gossipKeys) confirmed(ctx context.Context) (identity.GossipRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmKeys)
	defer cancel()
	return identity.ReadGossip(ctx, k.store, raftstore.ReadOptions{})
}

// takeKeys makes keys those of this host: first on disk, so that they outlive a crash.
func (k *gossipKeys) takeKeys(keys identity.GossipKeyring) error {
	changed, err := k.identity.KeepGossipKeys(keys)
	if err != nil || !changed && !k.unset {
		return err
	}
	k.unset = true
	if err := k.set(keys.Keys); err != nil {
		return err
	}
	k.unset = false
	k.log.Info("the gossip keys have changed", "generation", keys.Generation, "accepted", len(keys.Keys))
	return nil
}

// askForKeys asks some of the hosts for their keys. If some are newer than its own, it takes
// those of the mesh's state as it is now, or the newest of them if that cannot be read. Most
// hosts that are asked are off, so it asks seldom as long as they are the same.
func (k *gossipKeys) askForKeys(ctx context.Context, hosts []string) error {
	if len(hosts) == 0 {
		k.asked, k.missed = time.Time{}, nil
		return nil
	}
	if !slices.Equal(hosts, k.missed) {
		k.missed, k.pause = slices.Clone(hosts), askKeysPause
	}
	if time.Since(k.asked) < k.pause {
		return nil
	}
	k.asked, k.pause = time.Now(), min(2*k.pause, maxAskKeysPause)
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	answers := make(chan identity.GossipKeyring)
	hosts = hosts[:min(len(hosts), askedForKeys)]
	for _, host := range hosts {
		go func() {
			answer, err := k.ask(ctx, host)
			if err != nil {
				k.log.Debug("a host was asked for its gossip keys in vain", "host", host, "err", err)
			}
			answers <- answer
		}()
	}
	newest := k.identity.GossipKeyring()
	newer := false
	for range hosts {
		if answer := <-answers; answer.Generation > newest.Generation {
			newest, newer = answer, true
		}
	}
	if !newer {
		return nil
	}
	// A host whose copy is of before a recovery still tells the keys of then.
	if rec, err := k.confirmed(ctx); err == nil {
		newest = rec.GossipKeyring
	}
	if err := k.takeKeys(newest); err != nil {
		return fmt.Errorf("take the gossip keys of another host: %w", err)
	}
	return nil
}
