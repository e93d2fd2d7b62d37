package membership

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// readSettings returns the mesh's settings by this host's copy; nil if there is no MeshConfig.
func readSettings(ctx context.Context, store *raftstore.Store) (*meshv1alpha1.MeshConfig, error) {
	config, err := objects.Get[*meshv1alpha1.MeshConfig](ctx, objects.FromRaft(store, nil), objects.Key{Name: meshv1alpha1.Name}, localRead)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read which hosts may vote: %w", err)
	}
	return config, nil
}

// readVoterLimit returns which hosts may vote, by this host's copy of the mesh's settings.
func readVoterLimit(ctx context.Context, store *raftstore.Store) (raftstore.VoterLimit, error) {
	config, err := readSettings(ctx, store)
	return kinds.VoterLimit(config), err
}

// voterLimit is readVoterLimit for the choice of voters, which does not wait: settings that
// cannot be read are those that were read last.
type voterLimit struct {
	last atomic.Pointer[raftstore.VoterLimit]
}

func (l *voterLimit) read(store *raftstore.Store) raftstore.VoterLimit {
	if limit, err := readVoterLimit(context.Background(), store); err == nil {
		l.last.Store(&limit)
		return limit
	}
	if last := l.last.Load(); last != nil {
		return *last
	}
	return raftstore.VoterLimit{}
}

// addVoters tells which hosts may not vote, and which keys those of them have that voted.
func (m *Member) addVoters(ctx context.Context, status *admin.Status) error {
	settings, err := readSettings(ctx, m.store)
	if err != nil {
		return err
	}
	limit := kinds.VoterLimit(settings)
	for i, member := range status.Members {
		status.Members[i].MayNotVote = !limit.Allows(member.Name)
	}
	status.Warnings = append(status.Warnings, limitWarnings(limit, status.Members)...)
	rec, _, err := identity.ReadDemoted(ctx, m.store, localRead)
	if err != nil || len(rec.Hosts) == 0 {
		return err
	}
	cas, secrets, err := keysInUse(ctx, m.store, m.resealed)
	if err != nil {
		return err
	}
	for _, host := range rec.Hosts {
		demoted := admin.DemotedVoter{Host: host.Host, Since: host.Since}
		demoted.CAKey, demoted.SecretKeys = host.InUse(cas, secrets)
		if limit.Allows(host.Host) || !demoted.CAKey && len(demoted.SecretKeys) == 0 {
			continue // the leader is about to take it from the record
		}
		status.Demoted = append(status.Demoted, demoted)
		if !slices.Contains(m.store.Voters(), host.Host) {
			status.Warnings = append(status.Warnings, demotedWarning(demoted, m.whyKeysStay(ctx, settings, demoted)))
		}
	}
	return nil
}

// limitWarnings says where the limit of the voters cannot be followed, and what it costs.
func limitWarnings(limit raftstore.VoterLimit, members []admin.Member) (list []string) {
	var breaks, names []string
	allowed := 0
	for _, member := range members {
		names = append(names, member.Name)
		if limit.Allows(member.Name) {
			allowed++
		} else if member.Role == roleVoter || member.Role == roleLeader {
			breaks = append(breaks, member.Name)
		}
	}
	if len(breaks) > 0 {
		list = append(list, fmt.Sprintf("%s may not vote by spec.voters of the MeshConfig, and votes until a host that may takes the place: "+
			"that takes seconds, unless the hosts that may vote are too few, or off", strings.Join(breaks, ", ")))
	}
	if missing := unknownHosts(limit.Nodes, members); len(missing) > 0 {
		list = append(list, fmt.Sprintf("spec.voters.hosts of the MeshConfig names what is no host of this mesh: %s", strings.Join(missing, ", ")))
	}
	if few := kinds.WarnOfFewVoters(limit, names); few != "" && len(breaks) == 0 {
		list = append(list, few)
	}
	if allowed == 0 && len(members) > 0 {
		list = append(list, "spec.voters of the MeshConfig lets no host of this mesh vote, so that those that do go on: 'kubectl edit meshconfig mesh'")
	}
	return list
}

func unknownHosts(names []string, members []admin.Member) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(members, func(m admin.Member) bool { return m.Name == name })
	})
}

// whyKeysStay says why the mesh does not replace by itself what a host has had that may not vote
// any more; empty if it does.
func (m *Member) whyKeysStay(ctx context.Context, settings *meshv1alpha1.MeshConfig, d admin.DemotedVoter) string {
	switch level := m.store.FeatureLevel(); {
	case level < replacesKeysFrom:
		return fmt.Sprintf("the mesh replaces them by itself from feature level %d on, and is at %d", replacesKeysFrom, level)
	case kinds.KeepsKeys(settings):
		return "spec.voters.keepKeys of the MeshConfig keeps them"
	case d.CAKey:
		return m.whyCAStays(ctx)
	}
	return ""
}

// demotedWarning says which keys a host has that votes no more, and what replaces them: the mesh
// by itself, or commands, if stay says why it does not.
func demotedWarning(d admin.DemotedVoter, stay string) string {
	var keys, commands []string
	if d.CAKey {
		keys, commands = append(keys, "the key of the mesh's CA"), append(commands, "'virtmesh ca rotate'")
	}
	if len(d.SecretKeys) > 0 {
		keys, commands = append(keys, "the key for Secrets"), append(commands, "'virtmesh secrets rotate-key'")
	}
	begin := fmt.Sprintf("%s may not vote any more, and has had %s", d.Host, strings.Join(keys, " and "))
	replace := strings.Join(commands, " and ")
	if stay == "" {
		return fmt.Sprintf("%s: from %s on the mesh replaces what it may have kept; at once does %s", begin, d.Since.Add(demotedGrace).UTC().Format("15:04 UTC"), replace)
	}
	return fmt.Sprintf("%s: %s replaces what it may have kept (%s)", begin, replace, stay)
}
