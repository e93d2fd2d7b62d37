package enrol_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port/enrol"
)

// Lists of voters go to whoever asks, also to a host that trusts none of the CAs of who answers,
// and news of them name no other address than the caller's.
func TestListsOfVotersAreForAnyone(t *testing.T) {
	var heard []string
	m := newMember(t, func(cfg *enrol.ServerConfig) {
		cfg.Manifests = func(_ context.Context, after uint64) ([][]byte, error) {
			return [][]byte{[]byte(fmt.Sprint("list ", after+1))}, nil
		}
		cfg.News = func(address string) { heard = append(heard, address) }
	})
	stranger, at := identitytest.NewMesh(t).First, m.port.Addr().String()
	list, err := enrol.FetchManifests(t.Context(), stranger, "v1", at, 7)
	if err != nil || len(list) != 1 || string(list[0]) != "list 8" {
		t.Errorf("%q, %v", list, err)
	}
	if err := enrol.TellNews(t.Context(), stranger, "v1", at, 7443); err != nil || !slices.Equal(heard, []string{"127.0.0.1:7443"}) {
		t.Errorf("heard of %v, %v", heard, err)
	}
	if err := enrol.TellNews(t.Context(), stranger, "v1", at, 0); !errors.Is(err, fault.Invalid) {
		t.Errorf("news from no port: %v", err)
	}
	// They share a pace, so strangers cost little.
	refused := 0
	for range 40 {
		if _, err := enrol.FetchManifests(t.Context(), stranger, "v1", at, 0); errors.Is(err, enrol.ErrUnavailable) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("strangers get as many lists as they want")
	}
}

// A host without lists, as one that starts, says so.
func TestAHostWithoutLists(t *testing.T) {
	m := newMember(t)
	if _, err := enrol.FetchManifests(t.Context(), m.First, "v1", m.port.Addr().String(), 0); !errors.Is(err, enrol.ErrUnavailable) {
		t.Error(err)
	}
}
