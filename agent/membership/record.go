package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// One attempt to change the record, and the pauses between two; the mesh may have
// no quorum for long, and the store waits for one as long as it may.
const (
	recordTimeout  = 30 * time.Second
	recordPause    = time.Second
	maxRecordPause = time.Minute
)

// record makes this host's record in the store say what its configuration says.
// Other hosts find this one by the record, and its certificate takes its addresses
// from there: without this, API clients could not verify a host whose address was
// changed.
type record struct {
	hosts    *identity.Hosts
	identity *identity.Identity
	// config is this host's, version and level what it runs.
	config  Config
	version string
	level   uint32
	// renew gets a new certificate.
	renew func(context.Context) error
	// askOthers returns an error if the other hosts say that this machine was removed.
	askOthers func(context.Context) error
	log       *slog.Logger
}

// startRecord compares once per start, because only a restart changes the
// configuration. It waits for the mesh in the background.
func (m *Member) startRecord(context.Context) error {
	r := record{
		hosts: identity.NewHosts(m.store), identity: m.identity, config: m.config,
		version: m.options.Version, level: FeatureLevel, renew: m.renewer.Renew,
		askOthers: m.renewals.askWhetherExpelled, log: m.log,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.keep(ctx)
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

// keep makes the record right once, however long that takes.
func (r record) keep(ctx context.Context) {
	for pause := recordPause; ; pause = min(2*pause, maxRecordPause) {
		err := r.settle(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		// A machine that was removed while it could reach nobody is refused by all
		// when it can again, and its own replica will never say why.
		if gone := r.askOthers(ctx); gone != nil {
			err = gone
		}
		if errors.Is(err, fault.NoHost) || errors.Is(err, fault.Expelled) {
			r.log.Error("this machine is no host of the mesh any more", "err", err)
			return
		}
		r.log.Warn("this host's record or certificate does not fit its configuration yet", "err", err, "retryIn", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// settle changes the record if it differs, and renews the certificate if it lacks
// a name. The two are looked at apart: an agent may stop between them.
func (r record) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	have, err := r.hosts.Get(ctx, r.config.Name, raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("read this host's record: %w", err)
	}
	if want := r.apply(have); !same(want, have) {
		if err := r.hosts.Update(ctx, r.identity.Node(), func(rec *identity.HostRecord) { *rec = r.apply(*rec) }); err != nil {
			return err
		}
		r.log.Info("this host's record was changed", "address", want.MeshAddress, "before", have.MeshAddress, "version", want.Version)
	}
	for _, name := range r.config.certificateNames() {
		if r.identity.Leaf().VerifyHostname(name) != nil {
			return r.renew(ctx)
		}
	}
	return nil
}

// apply returns a record with what the configuration and the program say.
func (r record) apply(rec identity.HostRecord) identity.HostRecord {
	rec.MeshAddress, rec.GossipAddress, rec.SANs = r.config.MeshAddress(), r.config.GossipAddress(), r.config.sans()
	rec.Version, rec.FeatureLevel = r.version, r.level
	return rec
}

// same compares what apply sets.
func same(a, b identity.HostRecord) bool {
	return a.MeshAddress == b.MeshAddress && a.GossipAddress == b.GossipAddress && slices.Equal(a.SANs, b.SANs) &&
		a.Version == b.Version && a.FeatureLevel == b.FeatureLevel
}
