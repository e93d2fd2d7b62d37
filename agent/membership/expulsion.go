package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/enrol"
)

// ErrExpelled is returned by Start and Run when it is certain that the mesh has expelled this
// host. What is left to do is Retire's.
var ErrExpelled = errors.New("this host was expelled from its mesh")

const (
	// expulsionEvery is how often a host that does not reach the leader asks whether it was
	// expelled, and expulsionTimeout how long it waits for the answers.
	expulsionEvery   = 15 * time.Second
	expulsionTimeout = 5 * time.Second
	// askedAtOnce is how many hosts it asks each time, and sureOf how many must say so.
	askedAtOnce = 5
	sureOf      = 2
)

// verdict finds out whether this host was expelled. A host that is told so ends its guests,
// so nothing but the word of hosts of its own mesh counts: no silence, no refused connection,
// no certificate of another mesh. Who has the CA's key can make certificates of this mesh, so a
// host is recognised by the key that its record has. One that keeps no key is believed only
// when it says that this host is a member.
type verdict struct {
	// others returns the last known other members.
	others func() []identity.Seed
	// ask asks the host at an address; see enrol.AskStanding.
	ask func(ctx context.Context, address string) (enrol.Standing, error)
}

// witnesses returns the hosts that say this one was expelled, if that makes it certain: two of
// them, or the only other one that there is, and nobody who says otherwise.
func (v verdict) witnesses(ctx context.Context) ([]string, bool) {
	needed := min(sureOf, len(v.others()))
	var said []string
	contested := false
	for _, a := range v.gather(ctx) {
		contested = contested || (a.known || a.named) && !a.said.Expelled
		if a.known && a.said.Expelled {
			said = append(said, a.said.By.Name)
		}
	}
	slices.Sort(said)
	said = slices.Compact(said)
	return said, needed > 0 && !contested && len(said) >= needed
}

// answer is what a host has said.
type answer struct {
	said enrol.Standing
	// known says that the host has shown the key that its record has, named that it keeps none
	// and has shown its name.
	known, named bool
}

// gather asks some of the other hosts, and returns what those said that answered.
func (v verdict) gather(ctx context.Context) []answer {
	others := v.others()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	others = others[:min(len(others), askedAtOnce)]
	ctx, cancel := context.WithTimeout(ctx, expulsionTimeout)
	defer cancel()
	answers := make(chan *answer)
	for _, other := range others {
		go func() {
			said, err := v.ask(ctx, other.MeshAddress)
			if err != nil {
				answers <- nil
				return
			}
			answers <- &answer{said, other.Is(said.By, said.Key), !other.KeepsKey() && said.By.Name == other.Host}
		}()
	}
	var all []answer
	for range others {
		if a := <-answers; a != nil {
			all = append(all, *a)
		}
	}
	return all
}

// verdict returns the verdict of the other hosts on this one.
func (m *Member) verdict() verdict {
	return verdict{
		others: func() []identity.Seed { return distinct(m.peers.Seeds(), m.config.Name) },
		ask: func(ctx context.Context, address string) (enrol.Standing, error) {
			return enrol.AskStanding(ctx, m.identity, m.options.Version, address, m.peers.keeps)
		},
	}
}

// distinct returns the hosts of a list besides one, each once.
func distinct(seeds []identity.Seed, self string) []identity.Seed {
	var list []identity.Seed
	for _, seed := range seeds {
		if seed.Host != self && !slices.ContainsFunc(list, func(s identity.Seed) bool { return s.Host == seed.Host }) {
			list = append(list, seed)
		}
	}
	return list
}

// refuseExpelled returns ErrExpelled if an earlier run was certain of this host's expulsion,
// also if what it kept of it is damaged: nothing else is ever kept there.
func (m *Member) refuseExpelled(context.Context) error {
	_, found, err := identity.ReadExpulsion(m.config.StateDir)
	if found {
		return ErrExpelled
	}
	return err
}

// confirmExpulsion returns ErrExpelled instead of an error that says this host was removed, if that is
// certain. The word of one host keeps the agent from starting, and ends no guest.
func (m *Member) confirmExpulsion(ctx context.Context, err error) error {
	if errors.Is(err, fault.Expelled) && m.isExpelled(ctx, m.verdict()) {
		return fmt.Errorf("%w: %w", ErrExpelled, err)
	}
	return err
}

// isExpelled reports whether it is certain that this host was expelled, and then keeps that.
func (m *Member) isExpelled(ctx context.Context, v verdict) bool {
	by, certain := v.witnesses(ctx)
	if !certain {
		return false
	}
	m.log.Error("this host was expelled from its mesh: it ends its guests and leaves their disks as they are", "by", strings.Join(by, ", "))
	if err := m.identity.KeepExpulsion(identity.Expulsion{By: by, At: time.Now().UTC()}); err != nil {
		m.log.Error("a later start does not know of the expulsion until it is told again", "err", err)
	}
	return true
}

// startWatchOfExpulsion asks the other hosts from time to time, as long as this host does not
// reach the leader: hosts refuse one that was expelled without a reason, and its own copy of
// the state never shows the removal.
func (m *Member) startWatchOfExpulsion(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if awaitExpulsion(ctx, m.store.ReachesLeader, func(ctx context.Context) bool { return m.isExpelled(ctx, m.verdict()) }) {
			close(m.expelled)
		}
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

// awaitExpulsion asks until it is certain that this host was expelled, and reports true, or
// until ctx ends.
func awaitExpulsion(ctx context.Context, reachesLeader, isExpelled func(context.Context) bool) bool {
	ticker := time.NewTicker(expulsionEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
			if !reachesLeader(ctx) && isExpelled(ctx) {
				return true
			}
		}
	}
}
