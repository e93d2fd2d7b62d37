package membership

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// raiseTimeout bounds a raise of the mesh's feature level: every host is asked.
const raiseTimeout = 30 * time.Second

// LevelHosts returns the hosts that the mesh has records of, with the feature level that
// each knows: what a live host gossips, and else what it last wrote into its record.
func (p *Peers) LevelHosts() []level.Host {
	live := map[string]level.Host{}
	for _, member := range p.members() {
		if member.State.Live() {
			live[member.Name] = level.Host{Version: member.Facts.Version, Highest: uint32(max(member.Facts.FeatureLevel, 0))}
		}
	}
	recorded, _ := p.records.list()
	hosts := make([]level.Host, 0, len(recorded))
	for _, record := range recorded {
		host := level.Host{Name: record.Name, Version: record.Version, Highest: record.FeatureLevel}
		if heard, ok := live[record.Name]; ok {
			host.Live = true
			if heard.Highest > 0 { // else its agent has just begun to gossip
				host.Version, host.Highest = heard.Version, heard.Highest
			}
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// LevelHosts returns the hosts of the mesh with the feature level that each knows.
func (m *Member) LevelHosts() []level.Host { return m.peers.LevelHosts() }

// Speaker returns what this host says of itself in the agents' own protocols.
func (m *Member) Speaker() port.Speaker {
	self := port.NewSpeaker(m.config.Name, m.options.Version)
	self.Levels = level.Known()
	if m.store != nil {
		self.Mesh = m.store.FeatureLevel()
	}
	return self
}

// FeatureLevel returns the feature level of the mesh.
func (m *Member) FeatureLevel() uint32 { return m.store.FeatureLevel() }

// RaiseFeatureLevel raises the mesh to a feature level, for good. Every replica and every
// host that the mesh has a record of is asked first; one that does not know the level, or
// does not answer, stops the raise.
func (m *Member) RaiseFeatureLevel(ctx context.Context, to uint32) error {
	ctx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	before := m.store.FeatureLevel()
	if to < before {
		return fault.InField("to", "must not be below %d, the feature level of the mesh: a raise cannot be taken back", before)
	}
	if err := m.store.RaiseFeatureLevel(ctx, to); err != nil {
		return err
	}
	if before != to {
		m.log.Info("the mesh's feature level was raised", "level", to, "before", before)
	}
	return nil
}

// RaiseLevel implements admin.Mesh.
func (a administration) RaiseLevel(ctx context.Context, to uint32) error {
	return a.RaiseFeatureLevel(ctx, to)
}

// levelStatus returns what operators are told of the mesh's feature level.
func (m *Member) levelStatus(ctx context.Context) (*admin.Level, error) {
	mesh := m.store.FeatureLevel()
	outlook := level.Look(mesh, m.peers.LevelHosts())
	config, err := objects.Get[*meshv1alpha1.MeshConfig](ctx, objects.FromRaft(m.store, nil),
		objects.Key{Name: meshv1alpha1.Name}, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read who raises the feature level: %w", err)
	}
	return &admin.Level{
		Mesh: mesh, Known: level.Highest, Reachable: outlook.Reachable, Newest: outlook.Newest, HeldUpBy: outlook.HeldUpBy, Unheard: outlook.Unheard,
		Brings: level.Above(mesh), Policy: string(meshv1alpha1.Effective(config).FeatureLevel),
	}, nil
}
