package offer

import (
	"context"
	"errors"
	"strings"
	"testing"

	"virtmesh/agent/claims"
	machine "virtmesh/agent/vmi"
)

func TestOffer(t *testing.T) {
	const mib = int64(1) << 20
	reaches, room, away := true, error(nil), error(nil)
	able := Ability{
		Allocatable: machine.Resources{CPUMilli: 4000, MemoryBytes: 64 * mib, EphemeralBytes: mib}, CPUModels: []string{"Haswell"},
		Emulator: machine.Emulator{MachineTypes: []string{"q35"}, TPM: true},
	}
	judge := &Judge{
		ReachesLeader: func(context.Context) bool { return reaches },
		Room:          func(int64, map[string]int64) error { return room },
		Host:          "h1", Ability: func() (Ability, error) { return able, away },
		OnHost: func(host string) []claims.Instance {
			if host != "h1" {
				t.Errorf("asked for the claims on %s", host)
			}
			return []claims.Instance{{UID: "a", Resources: machine.Resources{CPUMilli: 1000, MemoryBytes: 32 * mib}}}
		},
	}
	for _, test := range []struct {
		name    string
		request claims.OfferRequest
		reason  string
	}{
		{"it fits", claims.OfferRequest{UID: "b", Resources: machine.Resources{CPUMilli: 3000, MemoryBytes: 32 * mib}}, ""},
		{"too many processors", claims.OfferRequest{UID: "b", Resources: machine.Resources{CPUMilli: 3001}}, "Insufficient cpu"},
		{"too much memory", claims.OfferRequest{UID: "b", Resources: machine.Resources{MemoryBytes: 32*mib + 1}}, "Insufficient memory"},
		{"its own claim does not count", claims.OfferRequest{UID: "a", Resources: machine.Resources{CPUMilli: 4000, MemoryBytes: 64 * mib}}, ""},
		{"a model it has", claims.OfferRequest{UID: "b", CPUModel: "Haswell"}, ""},
		{"a machine it lacks", claims.OfferRequest{UID: "b", Needs: machine.Needs{MachineType: "pc-q35-9.0"}}, "it has no machine type pc-q35-9.0"},
		{"a TPM it has", claims.OfferRequest{UID: "b", Needs: machine.Needs{MachineType: "q35", TPM: true}}, ""},
		{"a model it lacks", claims.OfferRequest{UID: "b", CPUModel: "EPYC"}, "the processor cannot run CPU model EPYC"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := judge.Offer(t.Context(), test.request)
			if err != nil || got.Accepted != (test.reason == "") || !strings.Contains(got.Reason, test.reason) {
				t.Errorf("got %+v, %v; want the reason %q", got, err, test.reason)
			}
		})
	}
	// An instance that takes room on the disk is refused while there is none to spare.
	room = errors.New("3 MiB are free")
	for _, request := range []claims.OfferRequest{{UID: "b", Images: []string{"disk"}}, {UID: "b", Resources: machine.Resources{EphemeralBytes: 1}}, {UID: "b", Pools: map[string]int64{"local": 1}}} {
		if got, err := judge.Offer(t.Context(), request); err != nil || got.Accepted || !strings.Contains(got.Reason, "3 MiB are free") {
			t.Errorf("on a full disk: %+v, %v", got, err)
		}
	}
	if got, err := judge.Offer(t.Context(), claims.OfferRequest{UID: "b"}); err != nil || !got.Accepted {
		t.Errorf("an instance that takes no room: %+v, %v", got, err)
	}
	// The claim would wait on a host that does not learn of it, while others could take it.
	reaches = false
	if got, err := judge.Offer(t.Context(), claims.OfferRequest{UID: "b"}); err != nil || got.Accepted || !strings.Contains(got.Reason, "does not reach the leader") {
		t.Errorf("a host that does not reach the leader: %+v, %v", got, err)
	}
	if free := judge.Free(); free.CPUMilli != 3000 || free.MemoryBytes != 32*mib {
		t.Errorf("free is %+v", free)
	}
	// The host may lack what must keep guests apart.
	reaches = true
	judge.MayStart = func() error { return errors.New("no profiles of AppArmor") }
	if got, err := judge.Offer(t.Context(), claims.OfferRequest{UID: "b"}); err != nil || got.Accepted || !strings.Contains(got.Reason, "no profiles of AppArmor") {
		t.Errorf("a host on which no guest may start: %+v, %v", got, err)
	}
	judge.MayStart = func() error { return nil }
	// The hypervisor may be away, or not yet there.
	reaches, away = true, errors.New("libvirt does not answer")
	if got, err := judge.Offer(t.Context(), claims.OfferRequest{UID: "b"}); err != nil || got.Accepted || !strings.Contains(got.Reason, "libvirt does not answer") {
		t.Errorf("a host without its hypervisor: %+v, %v", got, err)
	}
	if free := judge.Free(); free.CPUMilli != 0 || free.MemoryBytes != 0 {
		t.Errorf("without its hypervisor the host has %+v free", free)
	}
}

func TestNobodyIsPromisedMoreThanTheMachineHas(t *testing.T) {
	judge := &Judge{Ability: func() (Ability, error) { return Ability{Allocatable: machine.Resources{MemoryBytes: 1 << 60}}, nil }, OnHost: func(string) []claims.Instance { return nil }, ReachesLeader: func(context.Context) bool { return true }}
	got, err := judge.Offer(t.Context(), claims.OfferRequest{Resources: machine.Resources{MemoryBytes: 1 << 59}})
	if err != nil || got.Accepted || !strings.Contains(got.Reason, "really free") {
		t.Errorf("got %+v, %v", got, err)
	}
}
