package manifest

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/agent/identity"
)

// machine is a host with a key.
type machine struct {
	voter Voter
	key   *ecdsa.PrivateKey
}

func (m machine) sign(p identity.Purpose, message []byte) (key, sum []byte, err error) {
	return identity.SignFor(p, m.key, message)
}

// fatal is what tests and rapid's checks have in common.
type fatal interface {
	Helper()
	Fatal(args ...any)
}

func newMachine(t fatal, name string) machine {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := identity.PinOfKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return machine{Voter{Name: name, ID: identity.NewNode(name).ID, KeyPin: pin.String(), Address: name + ":7443"}, key}
}

// newMachines returns machines with the names host1 and so on.
func newMachines(t fatal, n int) (list []machine) {
	t.Helper()
	for i := range n {
		list = append(list, newMachine(t, fmt.Sprint("host", i+1)))
	}
	return list
}

func votersOf(machines []machine) (voters []Voter) {
	for _, m := range machines {
		voters = append(voters, m.voter)
	}
	return voters
}

// newCA returns the certificate of a CA.
func newCA(t fatal) []byte {
	t.Helper()
	ca, err := identity.NewCA("mesh")
	if err != nil {
		t.Fatal(err)
	}
	return ca.CertificatePEM()
}

// after returns the next version with some voters, signed by some machines. Nil: the first one.
func after(t fatal, before *Signed, ca []byte, voters, signers []machine) *Signed {
	t.Helper()
	m := Manifest{MeshID: "mesh", Group: "group", Version: 1, Anew: true, Voters: votersOf(voters), CAs: ca}
	if before != nil {
		m.Version, m.Previous, m.Anew = before.manifest.Version+1, before.Hash(), false
	}
	return signedBy(t, m, signers)
}

func signedBy(t fatal, m Manifest, signers []machine) *Signed {
	t.Helper()
	s, err := Seal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, signer := range signers {
		if s, err = s.Sign(signer.sign); err != nil {
			t.Fatal(err)
		}
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(data) // whatever is verified here has travelled
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// A host that has verified one version finds today's voters, although none of them is left.
func TestAChainLeadsToOtherVoters(t *testing.T) {
	m, ca := newMachines(t, 6), newCA(t)
	first := after(t, nil, ca, m[:3], m[:2])
	chain := []*Signed{first}
	for i := 1; i <= 3; i++ { // one after the other, and one of them is always off
		chain = append(chain, after(t, chain[i-1], ca, m[i:i+3], m[i:i+2]))
	}
	if err := first.Begins(votersOf(m[:3])); err != nil {
		t.Error(err)
	}
	for i := range chain {
		last, err := Forward(chain[i], chain)
		if err != nil || last.Manifest().Version != 4 {
			t.Errorf("from version %d: version %d, %v", i+1, last.Manifest().Version, err)
		}
	}
	last, err := Forward(first, chain[2:])
	if !errors.Is(err, ErrGap) || last != first {
		t.Errorf("with a gap: version %d, %v", last.Manifest().Version, err)
	}
	for _, v := range []Voter{m[3].voter, m[5].voter} {
		pin, _ := identity.ParsePin(v.KeyPin)
		got, ok := chain[3].Names(v.Name)
		if !ok || !got.Is(identity.Node{Name: v.Name, ID: v.ID}, pin) || got.Is(identity.Node{Name: v.Name, ID: "other"}, pin) {
			t.Errorf("%s is not recognised", v.Name)
		}
	}
}

// What does not follow, with the reason.
func TestWhatDoesNotFollow(t *testing.T) {
	m, ca := newMachines(t, 4), newCA(t)
	first := after(t, nil, ca, m[:3], m[:3])
	next := func(change func(*Manifest)) Manifest {
		x := Manifest{MeshID: "mesh", Group: "group", Version: 2, Previous: first.Hash(), Voters: votersOf(m[1:4]), CAs: ca}
		change(&x)
		return x
	}
	twice := []machine{m[0], m[0], m[3], m[3]} // one voter of before, and one who was none
	for name, c := range map[string]struct {
		change  func(*Manifest)
		signers []machine
		want    error
		text    string
	}{
		"one of three":              {func(*Manifest) {}, m[:1], ErrUnsigned, "1 of 3"},
		"one of three, twice":       {func(*Manifest) {}, twice, ErrUnsigned, "1 of 3"},
		"by the new voters only":    {func(x *Manifest) { x.Voters = votersOf(m[3:]) }, m[3:], ErrUnsigned, "0 of 3"},
		"of another mesh":           {func(x *Manifest) { x.MeshID = "other" }, m, nil, "another mesh"},
		"after another version 1":   {func(x *Manifest) { x.Previous = "other" }, m, nil, "another version 1"},
		"with a version left out":   {func(x *Manifest) { x.Version = 3 }, m, ErrGap, ""},
		"anew, by its own voters":   {func(x *Manifest) { x.Anew = true }, m[1:], ErrAnew, ""},
		"anew, by the former voter": {func(x *Manifest) { x.Anew = true }, m, ErrAnew, ""},
	} {
		err := signedBy(t, next(c.change), c.signers).Follows(first)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := signedBy(t, next(func(*Manifest) {}), m[:2]).Follows(first); err != nil {
		t.Errorf("two of three: %v", err)
	}
	// A signature for something else is none.
	s, err := Seal(next(func(*Manifest) {}))
	if err != nil {
		t.Fatal(err)
	}
	for _, signer := range m {
		if s, err = s.Sign(func(_ identity.Purpose, b []byte) (key, sum []byte, err error) { return signer.sign("other\x00", b) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Follows(first); !errors.Is(err, ErrUnsigned) {
		t.Errorf("signed for another purpose: %v", err)
	}
	// Nor is one for another body.
	s.signatures = signedBy(t, next(func(x *Manifest) { x.Index = 7 }), m).signatures
	if err := s.Follows(first); !errors.Is(err, ErrUnsigned) {
		t.Errorf("signed for another body: %v", err)
	}
	if err := after(t, nil, ca, m[3:], m[3:]).Begins(votersOf(m[:3])); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a first version of strangers: %v", err)
	}
	if err := signedBy(t, next(func(*Manifest) {}), m).Begins(votersOf(m)); err == nil {
		t.Error("a chain begins with version 2")
	}
}

// Whoever signs what, nothing verifies that a majority of the version before has not signed.
func TestNoChainWithoutMajorities(t *testing.T) {
	pool, ca := newMachines(t, 7), newCA(t)
	some := func(t *rapid.T, what string, least int) []machine {
		picked := rapid.SliceOfNDistinct(rapid.SampledFrom(pool), least, len(pool), func(m machine) string { return m.voter.Name }).Draw(t, what)
		slices.SortFunc(picked, func(a, b machine) int { return strings.Compare(a.voter.Name, b.voter.Name) })
		return picked
	}
	rapid.Check(t, func(t *rapid.T) {
		voters := some(t, "first voters", 1)
		chain := []*Signed{after(t, nil, ca, voters, voters)}
		reachable := 1 // the last version that majorities lead to
		for i := range rapid.IntRange(1, 6).Draw(t, "versions") {
			next, signers := some(t, "voters", 1), some(t, "signers", 0)
			chain = append(chain, after(t, chain[i], ca, next, signers))
			n := 0
			for _, v := range voters {
				if slices.ContainsFunc(signers, func(m machine) bool { return m.voter == v.voter }) {
					n++
				}
			}
			if 2*n > len(voters) && reachable == i+1 {
				reachable = i + 2
			}
			voters = next
		}
		last, err := Forward(chain[0], chain)
		if got := int(last.Manifest().Version); got != reachable || (err == nil) != (reachable == len(chain)) {
			t.Fatalf("it leads to version %d of %d, want %d: %v", got, len(chain), reachable, err)
		}
	})
}

// What another host sends is bounded, and what cannot be a manifest is refused.
func TestWhatIsNoManifest(t *testing.T) {
	m, ca := newMachines(t, 2), newCA(t)
	good := Manifest{MeshID: "mesh", Version: 1, Anew: true, Voters: votersOf(m), CAs: ca}
	for name, spoil := range map[string]func(*Manifest){
		"no voter":              func(x *Manifest) { x.Voters = nil },
		"too many voters":       func(x *Manifest) { x.Voters = votersOf(newMachines(t, MaxVoters+1)) },
		"one host twice":        func(x *Manifest) { x.Voters = append(x.Voters, x.Voters[0]) },
		"one key twice":         func(x *Manifest) { x.Voters[1].KeyPin = x.Voters[0].KeyPin },
		"one ID twice":          func(x *Manifest) { x.Voters[1].ID = x.Voters[0].ID },
		"a name that is none":   func(x *Manifest) { x.Voters[0].Name = "Host 1" },
		"a pin that is none":    func(x *Manifest) { x.Voters[0].KeyPin = "pin" },
		"no mesh":               func(x *Manifest) { x.MeshID = "" },
		"no version":            func(x *Manifest) { x.Version = 0 },
		"a first that follows":  func(x *Manifest) { x.Anew = false },
		"a second without hash": func(x *Manifest) { x.Version = 2 },
		"no CA":                 func(x *Manifest) { x.CAs = nil },
		"too many CAs":          func(x *Manifest) { x.CAs = bytes.Repeat(ca, MaxCAs+1) },
	} {
		bad := good
		bad.Voters = slices.Clone(good.Voters)
		spoil(&bad)
		if _, err := Seal(bad); err == nil {
			t.Errorf("%s is sealed", name)
		}
	}
	if _, err := Parse(bytes.Repeat([]byte{' '}, MaxBytes+1)); err == nil {
		t.Error("any number of bytes is read")
	}
	crowd := signedBy(t, good, m)
	crowd.signatures = slices.Repeat(crowd.signatures, MaxVoters)
	data, err := crowd.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data); err == nil {
		t.Error("any number of signatures is read")
	}
}

// FuzzParse: nothing that is read breaks the reader, and what it takes stays what it is.
func FuzzParse(f *testing.F) {
	m := newMachines(f, 3)
	data, err := after(f, nil, newCA(f), m, m[:2]).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"body":"e30=","signatures":[{}]}`))
	f.Add([]byte(`{"body":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		_ = s.Begins(s.Manifest().Voters)
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := Parse(again)
		if err != nil || read.Hash() != s.Hash() || !read.Manifest().Agrees(s.Manifest()) {
			t.Fatalf("it reads as another one: %v", err)
		}
	})
}
