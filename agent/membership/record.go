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
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// Bounds of one attempt to change the record and of the pauses between attempts. The
// mesh may be without a quorum for long; the store waits for one for as long as an
// attempt may last.
const (
	recordTimeout  = 30 * time.Second
	recordPause    = time.Second
	maxRecordPause = time.Minute
)

// record updates this host's record in the store to match its configuration. Other
// hosts find this host by the record, and its certificate takes its addresses from the
// record: without the update, API clients could not verify a host whose address was
// changed.
type record struct {
	hosts    *identity.Hosts
	identity *identity.Identity
	// config is this host's configuration; version and level are those of the running
	// program.
	config  Config
	version string
	level   uint32
	// renew renews the certificate.
	renew func(context.Context) error
	// askOthers returns an error if the other hosts say that this machine was removed.
	askOthers func(context.Context) error
	log       *slog.Logger
}

// startRecord compares the record with the configuration once per start, because only a
// restart changes the configuration. It waits for the mesh in the background.
func (m *Member) startRecord(context.Context) error {
	r := record{
		hosts: identity.NewHosts(m.records), identity: m.identity, config: m.config,
		version: m.options.Version, level: level.Highest, renew: m.renewer.Renew,
		askOthers: m.renewals.askWhetherExpelled, log: m.log,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.keepTrying(ctx)
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

// keepTrying retries until the record is correct, then returns.
func (r record) keepTrying(ctx context.Context) {
	for pause := recordPause; ; pause = min(2*pause, maxRecordPause) {
		err := r.updateOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		// Every host refuses a machine that was removed while it was unreachable, and
		// the machine's own replica never learns of the removal.
		if gone := r.askOthers(ctx); gone != nil {
			err = gone
		}
		if errors.Is(err, fault.NoHost) || errors.Is(err, fault.Expelled) {
			r.log.Error("this machine is no longer a host of the mesh", "err", err)
			return
		}
		r.log.Warn("this host's record or certificate does not match its configuration yet", "err", err, "retryIn", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// updateOnce changes the record if it differs, and renews the certificate if it lacks a
// name. It checks the two separately, because an agent may stop between them.
func (r record) updateOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	have, err := r.hosts.Get(ctx, r.config.Name, raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("read this host's record: %w", err)
	}
	if want := r.withConfig(have); !sameConfig(want, have) {
		if err := r.hosts.Update(ctx, r.identity.Node(), func(rec *identity.HostRecord) { *rec = r.withConfig(*rec) }); err != nil {
			return err
		}
		r.log.Info("this host's record was changed", "addr", want.MeshAddress, "before", have.MeshAddress, "version", want.Version)
	}
	for _, name := range r.config.certificateNames() {
		if r.identity.Leaf().VerifyHostname(name) != nil {
			return r.renew(ctx)
		}
	}
	return nil
}

// withConfig returns the record with the values of the configuration and the program.
func (r record) withConfig(rec identity.HostRecord) identity.HostRecord {
	rec.MeshAddress, rec.GossipAddress, rec.SANs = r.config.MeshAddress(), r.config.GossipAddress(), r.config.sans()
	rec.Version, rec.FeatureLevel = r.version, r.level
	return rec
}

// sameConfig compares the fields that withConfig sets.
func sameConfig(a, b identity.HostRecord) bool {
	return a.MeshAddress == b.MeshAddress && a.GossipAddress == b.GossipAddress && slices.Equal(a.SANs, b.SANs) &&
		a.Version == b.Version && a.FeatureLevel == b.FeatureLevel
}
