package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
)

const (
	// trustPause is how often the record of the CA is looked at. A look reads only this host's
	// copy.
	trustPause = 2 * time.Second
	// resignPause is the time between two attempts to have this host's certificate signed by
	// the CA that signs now.
	resignPause = 10 * time.Second
)

// trust makes this host trust the CAs that the mesh's state names, and have a certificate of the
// one that signs. It tells the others by gossip how far it is.
type trust struct {
	store    identity.Store
	identity *identity.Identity
	// renew has the next certificate signed.
	renew func(context.Context) error
	// announce tells the other hosts which CAs this one trusts, and which has signed for it.
	announce func(trust, signedBy string) error
	// cutOff tells whether this host may have missed a replacement of the CA: it does not reach
	// the leader. learn then asks other hosts.
	cutOff func(context.Context) bool
	learn  func(context.Context) error
	log    *slog.Logger

	resigned, asked time.Time // the last attempts
}

// startTrust follows the mesh's CAs until the member is closed. A host that was off asks the
// others first: it may not be able to talk to them otherwise.
func (m *Member) startTrust(ctx context.Context) error {
	keeper := &trust{
		store: m.records, identity: m.identity, renew: m.renewer.Renew, announce: m.peers.announceTrust,
		cutOff: func(ctx context.Context) bool { return !m.store.ReachesLeader(ctx) },
		learn:  m.learnTrust, log: m.log.With("part", "identity"),
		asked: time.Now(), // by learnBeforeGossip
	}
	keeper.keepTrust(ctx)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(trustPause):
				keeper.keepTrust(ctx)
			}
		}
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

// keepTrust takes the next step that this host can take now.
func (k *trust) keepTrust(ctx context.Context) {
	err := errors.Join(k.replaceUntrusted(ctx), k.follow(ctx))
	if time.Since(k.asked) >= expulsionEvery && k.cutOff(ctx) {
		k.asked = time.Now()
		err = errors.Join(err, k.learn(ctx))
	}
	err = errors.Join(err, k.announce(identity.TrustFingerprint(k.identity.CABundle()), k.identity.SignedBy().String()))
	if err != nil && ctx.Err() == nil {
		k.log.Warn("this host may not trust the CAs that the mesh trusts", "err", err)
	}
}

// replaceUntrusted has this host's certificate signed anew if no CA that the host trusts has signed
// it. It goes by the identity alone: until a voter has signed, the leader may refuse this host,
// whose copy of the state then stays behind.
func (k *trust) replaceUntrusted(ctx context.Context) error {
	if k.identity.IsTrusted() || time.Since(k.resigned) < resignPause {
		return nil
	}
	k.resigned = time.Now()
	return k.renew(ctx)
}

// follow takes over what the mesh's state says of its CAs. The copy of a host that comes back
// may be older than what it was told: then the mesh is asked.
func (k *trust) follow(ctx context.Context) error {
	rec, err := identity.ReadCARecord(ctx, k.store, localRead)
	if errors.Is(err, identity.ErrNotSeeded) {
		return nil
	}
	if err != nil {
		return err
	}
	trusted, generation := k.identity.Trust()
	if rec.Generation < generation {
		if rec, err = k.confirmed(ctx); err != nil {
			return nil // the next look asks again
		}
	}
	if err := rec.CheckVouched(trusted); err != nil {
		return err
	}
	changed, err := k.identity.KeepTrust(rec.Bundle, rec.Generation)
	if err != nil {
		return err
	}
	if changed {
		k.log.Info("the mesh's CAs have changed", "generation", rec.Generation, "stage", string(rec.Stage))
	}
	if in := rec.InUse(); len(in) == 0 || k.identity.SignedBy() == in[0] || time.Since(k.resigned) < resignPause {
		return nil
	}
	k.resigned = time.Now()
	return k.renew(ctx)
}

// confirmed reads what the mesh's state says now, which needs a leader.
func (k *trust) confirmed(ctx context.Context) (identity.CARecord, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmKeys)
	defer cancel()
	return identity.ReadCARecord(ctx, k.store, raftstore.ReadOptions{})
}

// learnTrust asks the other hosts which CAs the mesh trusts now, and has a certificate of the
// one that signs made. A host that was off while the CA was replaced trusts none that signs for
// the others, and they trust none that signed for it. One that has a list of the mesh's voters
// learns which CA signs from the next list, which they sign. Another one knows the others by
// their keys. One of them may have been removed meanwhile, so it takes what two of them say, or
// the only other host, and nobody contests; and no CA that was not made with the key of one that it
// trusts, since any host can write records of hosts.
func (m *Member) learnTrust(ctx context.Context) error {
	if list, err := m.identity.Manifest(); err != nil || len(list) > 0 {
		return err
	}
	said, certain := m.verdict().trusted(ctx, m.identity.CABundle())
	if !certain {
		return nil
	}
	_, generation := m.identity.Trust()
	if said.Generation < generation || identity.TrustFingerprint(said.CABundle) == identity.TrustFingerprint(m.identity.CABundle()) {
		return nil
	}
	if _, err := m.identity.KeepTrust(said.CABundle, said.Generation); err != nil {
		return err
	}
	m.log.Info("the other hosts say that the mesh's CA was replaced while this one was off", "generation", said.Generation)
	renewer := m.renewer
	if renewer == nil { // the host starts
		var err error
		if renewer, err = m.newRenewer(m.renewals.byOthers()); err != nil {
			return err
		}
		defer renewer.Shutdown()
	}
	if err := renewer.Renew(ctx); err != nil {
		return fmt.Errorf("come back with a certificate of the mesh's new CA: %w", err)
	}
	return nil
}

// learnBeforeGossip is learnTrust for a host that starts: without it, it cannot be a replica. It
// is no error if it learns nothing, since the others may be starting too.
func (m *Member) learnBeforeGossip(ctx context.Context) error {
	if len(m.peers.Seeds()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := m.learnTrust(ctx); err != nil {
		m.log.Warn("this host may not trust the CAs that the mesh trusts", "err", err)
	}
	return nil
}

// trusted returns which CAs the mesh trusts by what the other hosts say, if that is certain. What
// leads from the CAs that this host trusts itself (own) to none of theirs is not heard.
func (v verdict) trusted(ctx context.Context, own []byte) (said enrol.Standing, certain bool) {
	answers := v.gather(ctx)
	needed := min(sureOf, len(v.others()))
	count := map[string]int{}
	for _, a := range answers {
		linked := identity.CheckLinks(own, a.said.Links, a.said.CABundle) == nil
		if a.known && linked && len(a.said.CABundle) > 0 && !a.said.Expelled {
			if name := identity.TrustFingerprint(a.said.CABundle); name != "" {
				if count[name]++; a.said.Generation >= said.Generation {
					said = a.said
				}
			}
		}
	}
	return said, len(count) == 1 && needed > 0 && count[identity.TrustFingerprint(said.CABundle)] >= needed
}
