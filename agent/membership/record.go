package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
	// addressesEvery is how often the interfaces are looked at for other addresses.
	addressesEvery = time.Minute
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
	// meshLevel returns the feature level of the mesh.
	meshLevel func() uint32
	// renew renews the certificate.
	renew func(context.Context) error
	// interfaces returns the addresses of this host's interfaces; nil if the record is to
	// have none.
	interfaces func() ([]netip.Addr, error)
	// askOthers returns an error if the other hosts say why they refuse this machine.
	askOthers func(context.Context) error
	log       *slog.Logger
}

// startRecord compares the record with the configuration once per start, because only a
// restart changes the configuration, and then whenever the interfaces have other addresses,
// or the mesh a level at which the record says more.
// It waits for the mesh in the background.
func (m *Member) startRecord(context.Context) error {
	r := record{
		hosts: identity.NewHosts(m.records), identity: m.identity, config: m.config,
		version: m.options.Version, level: level.Highest, meshLevel: m.store.FeatureLevel, renew: m.renewer.Renew,
		askOthers: m.renewals.askWhyRefused, interfaces: m.options.InterfaceAddresses, log: m.log,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.followInterfaces(ctx)
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

// followInterfaces keeps the record correct until ctx ends or this machine is no longer a
// host of the mesh.
func (r record) followInterfaces(ctx context.Context) {
	for ctx.Err() == nil {
		recorded, keepsKey := r.addresses(nil), r.keepsKey()
		if !r.keepTrying(ctx) || r.interfaces == nil && keepsKey {
			return
		}
		for ctx.Err() == nil && slices.Equal(r.addresses(recorded), recorded) && r.keepsKey() == keepsKey {
			select {
			case <-ctx.Done():
			case <-time.After(addressesEvery):
			}
		}
	}
}

// keepsKey reports whether the record is to say that this host keeps its key: all hosts of
// the mesh do.
func (r record) keepsKey() bool { return r.meshLevel() >= level.Apart }

// addresses returns the addresses for the record, or those of before if the interfaces
// cannot be read.
func (r record) addresses(before []netip.Addr) []netip.Addr {
	if r.interfaces == nil {
		return before
	}
	addresses, err := r.interfaces()
	if err != nil {
		r.log.Warn("the addresses of this host's interfaces cannot be read", "err", err)
		return before
	}
	if len(addresses) > identity.MaxAddresses {
		r.log.Warn("this host has more addresses than its record can hold: guests on other hosts can reach the rest",
			"addresses", len(addresses), "recorded", identity.MaxAddresses)
	}
	return addresses[:min(len(addresses), identity.MaxAddresses)]
}

// keepTrying retries until the record is correct, and then reports true, or until ctx ends
// or this machine is no longer a host of the mesh.
func (r record) keepTrying(ctx context.Context) bool {
	for pause := recordPause; ; pause = min(2*pause, maxRecordPause) {
		err := r.updateOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return err == nil
		}
		// Every host refuses a machine that was removed while it was unreachable, or that
		// has another key, and the machine's own replica never learns of the removal.
		if gone := r.askOthers(ctx); gone != nil {
			err = gone
		}
		if errors.Is(err, fault.NoHost) || errors.Is(err, fault.Expelled) {
			r.log.Error("this machine is no longer a host of the mesh", "err", err)
			return false
		}
		r.log.Warn("this host's record or certificate does not match its configuration yet", "err", err, "retryIn", pause)
		select {
		case <-ctx.Done():
			return false
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
	if err := have.CheckKey(r.identity.KeyPin()); err != nil && have.ID == r.identity.Node().ID {
		return fmt.Errorf("compare this host with its record: %w", err)
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
	rec.Version, rec.FeatureLevel, rec.Addresses = r.version, r.level, r.addresses(rec.Addresses)
	if r.keepsKey() && !rec.KeyKept {
		rec.KeyPin, rec.KeyKept = r.identity.KeyPin().String(), true
	}
	return rec
}

// sameConfig compares the fields that withConfig sets.
func sameConfig(a, b identity.HostRecord) bool {
	return a.MeshAddress == b.MeshAddress && a.GossipAddress == b.GossipAddress && slices.Equal(a.SANs, b.SANs) &&
		slices.Equal(a.Addresses, b.Addresses) && a.KeyPin == b.KeyPin && a.KeyKept == b.KeyKept &&
		a.Version == b.Version && a.FeatureLevel == b.FeatureLevel
}
