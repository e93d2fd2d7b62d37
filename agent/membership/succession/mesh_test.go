package succession

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// group is a host's view of the group in a state that a test sets.
type group struct {
	level         uint32
	leads, silent bool
	mute          bool // the leader that it hears does not answer it
	electorate    raftstore.Electorate
	believed      raftstore.Electorate
	confirm       error
}

func (g *group) FeatureLevel() uint32               { return g.level }
func (g *group) IsLeader() bool                     { return g.leads }
func (g *group) HearsLeader() bool                  { return !g.silent }
func (g *group) ReachesLeader(context.Context) bool { return !g.silent && !g.mute }
func (g *group) Electorate() raftstore.Electorate   { return g.electorate }
func (g *group) Confirm(context.Context) error      { return g.confirm }
func (g *group) BelieveVoters(e raftstore.Electorate) error {
	if e.Group == g.electorate.Group && e.Index > g.believed.Index {
		g.believed = e
	}
	return nil
}

// book keeps in memory what an identity keeps on disk.
type book struct {
	manifest, cas []byte
	generation    uint64
}

func (b *book) Manifest() ([]byte, error)      { return b.manifest, nil }
func (b *book) KeepManifest(data []byte) error { b.manifest = data; return nil }
func (b *book) Trust() ([]byte, uint64)        { return b.cas, b.generation }
func (b *book) KeepTrust(bundle []byte, generation uint64) (changed bool, err error) {
	b.cas, b.generation = bundle, generation
	return true, nil
}

// host is a host with a Keeper.
type host struct {
	*Keeper
	group group
	book  book
	node  identity.Node
	key   *ecdsa.PrivateKey
	pin   identity.Pin
	// sources are the states of the hosts that it can ask.
	sources map[string]*identitytest.Store
	trusted int // how often it began to trust a CA
}

// mesh is hosts whose copies of the state are one store, but for those that are off.
type mesh struct {
	t     *testing.T
	store *identitytest.Store
	hosts map[string]*host
	index uint64
	trust uint64 // the version of the CAs
	// foreign is what stands in the record of the CA, and no host takes: nobody has vouched for it.
	foreign []byte
}

func newMesh(t *testing.T) *mesh {
	m := &mesh{t: t, store: identitytest.NewStore(), hosts: map[string]*host{}}
	m.setCA()
	return m
}

// setCA makes another CA that of the mesh.
func (m *mesh) setCA() []byte {
	m.t.Helper()
	ca, err := identity.NewCA("mesh")
	if err != nil {
		m.t.Fatal(err)
	}
	m.trust++
	m.put(m.store, identity.KeyCA, identity.CARecord{MeshID: "mesh", Certificate: ca.CertificatePEM(), Bundle: ca.CertificatePEM(), Generation: m.trust})
	return ca.CertificatePEM()
}

func (m *mesh) put(store *identitytest.Store, key string, value any) {
	m.t.Helper()
	data, err := json.Marshal(value)
	if err == nil {
		_, err = store.Commit(m.t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: data}}})
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// machine returns a machine with a key that is no host.
func (m *mesh) machine(name string) *host {
	m.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		m.t.Fatal(err)
	}
	pin, err := identity.PinOfKey(key.Public())
	if err != nil {
		m.t.Fatal(err)
	}
	return &host{node: identity.NewNode(name), key: key, pin: pin, group: group{level: level.Succession}}
}

// add adds a host.
func (m *mesh) add(names ...string) {
	m.t.Helper()
	for _, name := range names {
		h := m.machine(name)
		m.put(m.store, identity.HostKey(name), identity.HostRecord{
			Name: name, ID: h.node.ID, MeshAddress: name + ":7443", GossipAddress: name + ":7946", KeyPin: h.pin.String(), KeyKept: true,
		})
		m.hosts[name] = h
		m.start(h, m.store)
	}
}

// start starts a host's Keeper over a copy of the state.
func (m *mesh) start(h *host, store *identitytest.Store) {
	m.t.Helper()
	k, err := New(Config{
		Self: h.node, KeyPin: func() identity.Pin { return h.pin }, MeshID: "mesh", Store: store, Group: &h.group, Book: &h.book,
		Sign:    func(p identity.Purpose, b []byte) (key, sum []byte, err error) { return identity.SignFor(p, h.key, b) },
		Sources: func() (list []string) { return append(list, slices.Collect(keysOf(h.sources))...) },
		Fetch: func(ctx context.Context, address string, after uint64) ([][]byte, error) {
			if h.sources[address] == nil {
				return nil, errors.New("nobody answers")
			}
			return Published(ctx, h.sources[address], after, localRead)
		},
		Trusting: func() { h.trusted++ },
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	h.Keeper = k
}

func keysOf(sources map[string]*identitytest.Store) func(func(string) bool) {
	return func(yield func(string) bool) {
		for at := range sources {
			if !yield(at) {
				return
			}
		}
	}
}

// elect makes hosts the voters, the first of them the leader.
func (m *mesh) elect(group string, voters ...string) {
	m.index += 10
	for name, h := range m.hosts {
		h.group.leads = name == voters[0]
		h.group.electorate = raftstore.Electorate{Group: group, Index: m.index, Voters: slices.Sorted(slices.Values(voters))}
	}
}

// followCAs lets a host trust the CAs that its copy of the state names.
func (m *mesh) followCAs(h *host) {
	m.t.Helper()
	cas, version, err := identity.TrustedCAs(m.t.Context(), h.cfg.Store, localRead)
	if err != nil {
		m.t.Fatal(err)
	}
	if string(cas) != string(m.foreign) {
		h.book.cas, h.book.generation = cas, version
	}
}

// settle lets the named hosts take steps until nothing happens any more.
func (m *mesh) settle(names ...string) {
	m.t.Helper()
	for before := -1; before != m.store.Commits(); {
		before = m.store.Commits()
		for _, name := range names {
			m.followCAs(m.hosts[name])
			if err := m.hosts[name].Step(m.t.Context()); err != nil {
				m.t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// newest returns the newest published list.
func (m *mesh) newest() manifest.Manifest {
	m.t.Helper()
	s, err := readNewest(m.t.Context(), m.store, localRead)
	if err != nil || s == nil {
		m.t.Fatalf("there is no list: %v", err)
	}
	return s.Manifest()
}

// copyOf returns a copy of the state as it is now.
func (m *mesh) copyOf(store *identitytest.Store) *identitytest.Store {
	m.t.Helper()
	all, err := store.List(m.t.Context(), raftstore.ListRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	other := identitytest.NewStore()
	for _, rec := range all.Records {
		if _, err := other.Commit(m.t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: rec.Key, Value: rec.Value}}}); err != nil {
			m.t.Fatal(err)
		}
	}
	return other
}

// switchOff cuts a host off from the others: its copy stays as it is.
func (m *mesh) switchOff(name string) *host {
	h := m.hosts[name]
	delete(m.hosts, name)
	h.group.silent = true
	m.start(h, m.copyOf(m.store))
	return h
}
