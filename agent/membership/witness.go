package membership

import (
	"context"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// farFewerOf / farFewerParts, two thirds, is the share of the recorded hosts below which
// the live ones are far fewer. Either half of a mesh that gossip has split is below it,
// and a mesh of three hosts that has lost one is not.
const farFewerOf, farFewerParts = 2, 3

// witnessAge is how old the leader's last answer may be for it to be used again, and
// witnessTimeout bounds one question to the leader.
const (
	witnessAge     = 2 * time.Second
	witnessTimeout = 5 * time.Second
)

// Witness is the second witness of a host's death, besides gossip: its silence towards
// the leader of the replicated store. Nothing that cannot be undone may follow from
// what one of the two says. Its methods may be called concurrently.
type Witness struct {
	// recorded returns the names of the other hosts that the mesh has records of.
	recorded func() []string
	// silencesOf asks the leader, see raftstore.Store.Silences.
	silencesOf func(ctx context.Context) (map[string]time.Duration, error)
	// limit is raftstore.Store.SilenceLimit.
	limit func() time.Duration

	// turn holds a token: who has it may ask the leader, and use the fields below. A
	// mutex would make the others wait for longer than their contexts allow.
	turn     chan struct{}
	asked    time.Time
	silences map[string]time.Duration
}

var _ stewards.Witness = (*Witness)(nil)

// NewWitness returns a witness that knows the hosts of the mesh by peers and asks the
// leader through store.
func NewWitness(peers *Peers, store *raftstore.Store) *Witness {
	w := &Witness{
		recorded: func() (names []string) {
			others, _ := peers.recordedSeeds()
			for _, other := range others {
				names = append(names, other.Host)
			}
			return names
		},
		silencesOf: func(ctx context.Context) (map[string]time.Duration, error) { return store.Silences(ctx) },
		limit:      func() time.Duration { return store.SilenceLimit() },
		turn:       make(chan struct{}, 1),
	}
	w.turn <- struct{}{}
	return w
}

// Witness returns the second witness. It may be asked once Start has returned.
func (m *Member) Witness() *Witness { return m.witness }

// Silent reports whether the leader hears nothing from a host either. Of a host without
// a replica it hears nothing. It implements nodes.Witness.
func (w *Witness) Silent(ctx context.Context, host string) (bool, error) {
	silences, err := w.askLeader(ctx)
	if err != nil {
		return false, fmt.Errorf("ask whether the leader hears %s: %w", host, err)
	}
	silence, ok := silences[host]
	return !ok || silence >= w.limit(), nil
}

// FarFewer implements stewards.Witness.
func (w *Witness) FarFewer(live int) bool {
	return live*farFewerParts < (len(w.recorded())+1)*farFewerOf
}

// Confirm implements stewards.Witness.
func (w *Witness) Confirm(ctx context.Context, live []string) (bool, error) {
	for _, host := range w.recorded() {
		if slices.Contains(live, host) {
			continue
		}
		if silent, err := w.Silent(ctx, host); err != nil || !silent {
			return false, err
		}
	}
	return true, nil
}

// askLeader returns for how long each host has been silent towards the leader.
func (w *Witness) askLeader(ctx context.Context) (map[string]time.Duration, error) {
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if w.silences != nil && time.Since(w.asked) < witnessAge {
		return w.silences, nil
	}
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	silences, err := w.silencesOf(ctx)
	if err != nil {
		return nil, err
	}
	w.silences, w.asked = silences, time.Now()
	return silences, nil
}
