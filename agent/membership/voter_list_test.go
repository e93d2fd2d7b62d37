package membership

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/membership/succession"
	"virtmesh/raftstore/raftstoretest"
)

// listOf returns the list of the mesh's voters that a host has kept.
func listOf(m *Member) (manifest.Manifest, error) {
	data, err := m.identity.Manifest()
	if err == nil && len(data) == 0 {
		err = errors.New(m.config.Name + " has no list of the voters")
	}
	if err != nil {
		return manifest.Manifest{}, err
	}
	s, err := manifest.Parse(data)
	if err != nil {
		return manifest.Manifest{}, err
	}
	return s.Manifest(), nil
}

// mustList waits until a host follows the list that names the CAs that another one trusts.
func mustList(t *testing.T, m, like *Member) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		list, err := listOf(m)
		if err == nil && identity.TrustFingerprint(list.CAs) != identity.TrustFingerprint(like.identity.CABundle()) {
			err = fmt.Errorf("%s follows version %d, with other CAs than %s trusts", m.config.Name, list.Version, like.config.Name)
		}
		return err
	})
}

// A host that believes no list is told what is true of its case. In a cut, the one with the newest
// list must not be told to give up what only it has.
func TestWhatAHostIsToldThatBelievesNoList(t *testing.T) {
	t.Parallel()
	for why, want := range map[error]string{
		fmt.Errorf("10.0.0.2:7443: %w", succession.ErrShorter): "host1 needs nothing: it goes on when the network is mended. Only if the mesh was made anew from a backup",
		fmt.Errorf("10.0.0.2:7443: %w", manifest.ErrAnew):      "has begun its list of voters anew",
		fmt.Errorf("10.0.0.2:7443: %w", manifest.ErrGap):       "it was off for more than the 1000 lists that a mesh keeps",
		fmt.Errorf("10.0.0.2:7443: %w", manifest.ErrUnsigned):  "the voters that it knows have not signed",
	} {
		got := refusedListWarning("host1", why)
		if !strings.Contains(got, want) || !strings.Contains(got, why.Error()) || !strings.HasSuffix(got, resyncRemedy) {
			t.Errorf("%v: %s", why, got)
		}
	}
}

// TestAHostLearnsTheCAFromTheList: a host that was off while the CA was replaced trusts the new
// one because the voters that it knows have signed for it, over the hosts' own protocols; and its
// mesh signs for its key.
func TestAHostLearnsTheCAFromTheList(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	mustList(t, first, first)
	mustList(t, second, first)
	before, err := listOf(second)
	if err != nil {
		t.Fatal(err)
	}
	config := second.config
	shutdown(second)
	raftstoretest.Eventually(t, func() error {
		if len(first.peers.otherLive()) > 0 {
			return errors.New("host1 has not found out yet that host2 is off")
		}
		return nil
	})
	carryOut(t, caRotationBy(first, "one", time.Hour))
	mustList(t, first, first)
	back := boot(t, config)
	mustFollow(t, back, first.identity)
	after, err := listOf(back)
	if err != nil || after.Version <= before.Version || after.Anew {
		t.Errorf("host2 followed version %d of the list, and follows version %d, anew %v: %v", before.Version, after.Version, after.Anew, err)
	}
	if err := back.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameCopy(t, first, back)
}
