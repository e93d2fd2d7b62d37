package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/level"
	"virtmesh/agent/membership/succession"
	"virtmesh/agent/port/enrol"
)

// votersPause is how often a host looks at the list of the mesh's voters, and signingPause while
// a list waits for signatures. A look reads only this host's copy.
const votersPause, signingPause = 5 * time.Second, time.Second

// voterList is what a member has to do with the list of the mesh's voters.
type voterList struct {
	keeper *succession.Keeper
	// trusting is set when the host has begun to trust another CA: its own certificate may be of
	// one that the mesh has given up. It is renewed at once then, and from resigned on now and
	// then until a CA that the host trusts has signed it, also after a restart.
	trusting atomic.Bool
	resigned time.Time
}

// openVoterList reads the list of voters that this host has verified before.
func (m *Member) openVoterList() {
	keeper, err := succession.New(succession.Config{
		Self: m.identity.Node(), KeyPin: m.identity.KeyPin, MeshID: m.identity.MeshID(), Store: m.records, Group: m.store,
		Book: m.identity, Sign: m.identity.SignFor, Sources: m.peers.MeshAddresses,
		Fetch: func(ctx context.Context, address string, after uint64) ([][]byte, error) {
			return enrol.FetchManifests(ctx, m.identity, m.options.Version, address, after)
		},
		Unheard: m.unheardAddresses, Tell: m.tellOfLists,
		Trusting: func() { m.lists.trusting.Store(true) }, Logger: m.log.With("part", "voters"),
	})
	if err != nil {
		m.log.Error("what this host knows of the mesh's voters is lost: if it does not find the mesh, "+resyncRemedy, "err", err)
	}
	m.lists.keeper = keeper
	m.peers.OpenVoters(keeper.Voters)
}

// publishedLists returns lists of voters for whoever asks.
func (m *Member) publishedLists(ctx context.Context, after uint64) ([][]byte, error) {
	return succession.Published(ctx, m.store, after, localRead)
}

// unheardAddresses returns the mesh addresses of the other hosts that gossip does not hear.
func (m *Member) unheardAddresses() (addresses []string) {
	for _, host := range m.peers.unheardHosts() {
		if address := m.peers.seedAddress(host); address != "" {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// tellOfLists tells the host at an address that this one has the lists of voters.
func (m *Member) tellOfLists(ctx context.Context, address string) error {
	_, text, err := net.SplitHostPort(m.config.MeshAddress())
	if err != nil {
		return fmt.Errorf("own mesh address: %w", err)
	}
	own, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return fmt.Errorf("own mesh address: %w", err)
	}
	return enrol.TellNews(ctx, m.identity, m.options.Version, address, uint16(own))
}

// followVoterList looks at the list of the mesh's voters once: a host that has joined has the list
// when it says so.
func (m *Member) followVoterList(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, votersPause)
	defer cancel()
	if err := m.lists.keeper.Step(ctx); err != nil {
		m.log.Debug("the list of the mesh's voters cannot be followed yet", "err", err)
	}
	return nil
}

// listPatience bounds how long a host that leaves waits until the list of voters is without it.
const listPatience = 20 * time.Second

// handOverList waits until the list of the mesh's voters does not name this host any more, since
// its signature may be needed for that. It is called when this host votes no more, and is no
// reason to stay: the leader begins the list anew if too few of its voters are left.
func (m *Member) handOverList(ctx context.Context) {
	if m.lists.keeper == nil || slices.Contains(m.store.Voters(), m.config.Name) {
		return // it is the last host
	}
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	for m.lists.keeper.Names(m.config.Name) {
		select {
		case <-ctx.Done():
			m.log.Warn("this host leaves while the list of the mesh's voters still names it")
			return
		case <-time.After(signingPause):
		}
	}
}

// listWarnings says why this host believes no list of the mesh's voters that others have.
func (m *Member) listWarnings() []string {
	if m.lists.keeper == nil {
		return nil
	}
	if err := m.lists.keeper.Spoilt(); err != nil {
		return []string{fmt.Sprintf("what %s knew of the mesh's voters is lost (%v): it learns it anew from its leader; if it does not find the mesh, %s", m.config.Name, err, resyncRemedy)}
	}
	if why := m.lists.keeper.Refused(); why != nil {
		return []string{refusedListWarning(m.config.Name, why)}
	}
	return nil
}

// refusedListWarning says what it means that a host that hears no leader does not believe the lists
// that others tell it, and what is to be done. Most of it the host cannot tell from a lie.
func refusedListWarning(host string, why error) string {
	begin := host + " hears no leader that answers it, and "
	switch {
	case errors.Is(why, succession.ErrShorter):
		return fmt.Sprintf("%sno host that it reaches has a list of the mesh's voters as late as its own (%v). If these hosts are cut off from the voters as well, %s needs nothing: "+
			"it goes on when the network is mended. Only if the mesh was made anew from a backup that is older than that list, %s", begin, why, host, resyncRemedy)
	case errors.Is(why, manifest.ErrAnew):
		return fmt.Sprintf("%sthe mesh that others tell it of has begun its list of voters anew (%v), as after a recovery, or when more than half of the voters are lost: "+
			"if that is so, make sure that these are hosts of your mesh, and then %s", begin, why, resyncRemedy)
	case errors.Is(why, manifest.ErrGap):
		return fmt.Sprintf("%swhat others tell it begins after the list of voters that it knows (%v): it was off for more than the %d lists that a mesh keeps: "+
			"make sure that these are hosts of your mesh, and then %s", begin, why, succession.Kept, resyncRemedy)
	}
	return fmt.Sprintf("%sthe voters that it knows have not signed for the list of voters that others tell it (%v): "+
		"make sure that these are hosts of your mesh, and then %s", begin, why, resyncRemedy)
}

// unnamedVoters says which voters keep the list of the mesh's voters from being made: their records
// do not name their keys. Each agent writes its own record.
func (m *Member) unnamedVoters(ctx context.Context) []string {
	if m.store.FeatureLevel() < level.Succession {
		return nil
	}
	hosts := identity.NewHosts(m.store)
	var names []string
	for _, name := range m.store.Voters() {
		if rec, err := hosts.Get(ctx, name, localRead); err == nil && !rec.KeyKept {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the records of voters do not name their keys yet (%s), and until they do, hosts that are off do not learn who votes now: "+
		"an agent writes its record within a minute after its start; look at its log (journalctl -u virtmesh)", level.NameHosts(names))}
}

// startVoterList keeps the list of the mesh's voters until the member is closed.
func (m *Member) startVoterList(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.keepVoterList(ctx)
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

func (m *Member) keepVoterList(ctx context.Context) {
	log := m.log.With("part", "voters")
	for failures := 0; ; {
		err := m.lists.keeper.Step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
		default:
			if failures++; failures%12 == 3 { // what others do meanwhile mends most of them
				log.Warn("the list of the mesh's voters is not as it should be yet", "err", err)
			}
		}
		m.renewForLists(ctx)
		pause := votersPause
		if m.lists.keeper.Waiting() {
			pause = signingPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// renewForLists has this host's certificate signed again while it is of a CA that the host does not
// trust any more, since the list of voters named others. Who of them answers may take a while to
// be known, and after some days nobody takes the old certificate.
func (m *Member) renewForLists(ctx context.Context) {
	if !m.lists.trusting.Swap(false) && (m.identity.IsTrusted() || !m.lists.keeper.InUse() || time.Since(m.lists.resigned) < resignPause) {
		return
	}
	m.lists.resigned = time.Now()
	if err := m.renewer.Renew(ctx); err != nil && ctx.Err() == nil {
		m.log.Warn("the mesh's CA was replaced, and no host that answers has signed this host's next certificate yet", "part", "voters", "err", err)
	}
}
