package raftstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// hashSigner signs with a hash that names the host. It stands for a signature that nobody
// else can make. Signatures of hosts in ended are not valid.
type hashSigner struct {
	node  string
	ended []string
}

func (h hashSigner) Sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(append([]byte(h.node), message...))
	return append([]byte(h.node+" "), sum[:]...), nil
}

func (h hashSigner) Verify(message, signature []byte) (string, error) {
	node, _, ok := strings.Cut(string(signature), " ")
	if !ok || slices.Contains(h.ended, node) {
		return "", errors.New("no member")
	}
	if want, _ := (hashSigner{node: node}).Sign(message); string(want) != string(signature) {
		return "", errors.New("wrong signature")
	}
	return node, nil
}

// said makes the signed statement of a node.
func said(t interface{ Fatal(...any) }, node string, s statement) signedStatement {
	signed, err := s.sign(hashSigner{node: node})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// What a majority of the voters signed is believed, and nothing else.
func TestWhatIsBelieved(t *testing.T) {
	ours, voters := incarnation{1}, []string{"a", "b", "c"}
	truth := statement{group: ours, index: 7, digest: digest{1}, checkpoint: hashedCheckpoint{5, stateHash{9}}, voters: voters}
	with := func(change func(*statement)) statement {
		other := truth
		change(&other)
		return other
	}
	lie := with(func(s *statement) { s.digest = digest{2} })
	stranger := with(func(s *statement) { s.group = incarnation{2} })
	own := with(func(s *statement) { s.voters = []string{"d", "e", "f"} })
	next := with(func(s *statement) { s.voters = []string{"a", "b", "d"} })
	far := with(func(s *statement) { s.voters = []string{"a", "d", "e"} })
	forged := said(t, "d", lie)
	forged.signature = append([]byte("b"), forged.signature[1:]...)
	replayed := said(t, "b", truth) // of other bytes
	replayed.bytes, replayed.statement = lie.encode(), lie
	for name, c := range map[string]struct {
		list   []signedStatement
		ended  []string
		want   digest // zero: nothing is believed
		voters []string
	}{
		"all":                          {list: []signedStatement{said(t, "a", truth), said(t, "b", truth), said(t, "c", truth)}, want: truth.digest, voters: voters},
		"a majority":                   {list: []signedStatement{said(t, "c", truth), said(t, "a", truth)}, want: truth.digest, voters: voters},
		"a majority and a liar":        {list: []signedStatement{said(t, "b", lie), said(t, "c", truth), said(t, "a", truth)}, want: truth.digest, voters: voters},
		"one of three":                 {list: []signedStatement{said(t, "a", truth)}},
		"one, twice":                   {list: []signedStatement{said(t, "a", truth), said(t, "a", truth)}},
		"one who signs two":            {list: []signedStatement{said(t, "a", lie), said(t, "a", truth), said(t, "b", truth)}},
		"hosts that do not vote":       {list: []signedStatement{said(t, "d", lie), said(t, "e", lie), said(t, "f", lie)}},
		"hosts that vote by their own": {list: []signedStatement{said(t, "d", own), said(t, "e", own), said(t, "f", own)}},
		"a voter and strangers":        {list: []signedStatement{said(t, "a", own), said(t, "d", own), said(t, "e", own)}},
		"a forged signature":           {list: []signedStatement{said(t, "a", lie), forged}},
		"a signature of other bytes":   {list: []signedStatement{said(t, "a", lie), replayed}},
		"another group":                {list: []signedStatement{said(t, "a", stranger), said(t, "b", stranger)}},
		"a host that was removed":      {list: []signedStatement{said(t, "a", truth), said(t, "b", truth)}, ended: []string{"b"}},
		"disagreement":                 {list: []signedStatement{said(t, "a", truth), said(t, "b", lie)}},
		"disagreement on who votes":    {list: []signedStatement{said(t, "a", truth), said(t, "b", next)}},
		"a voter replaced":             {list: []signedStatement{said(t, "a", next), said(t, "b", next)}, want: truth.digest, voters: next.voters},
		"a voter replaced, by a minority of those before": {list: []signedStatement{said(t, "b", next), said(t, "d", next)}},
		"two voters replaced":                             {list: []signedStatement{said(t, "a", far), said(t, "d", far), said(t, "e", far)}},
		"two voters replaced, who say so themselves":      {list: []signedStatement{said(t, "a", far), said(t, "d", far), said(t, "b", far)}, want: truth.digest, voters: far.voters},
		"replaced voters without the new ones":            {list: []signedStatement{said(t, "b", far), said(t, "c", far)}},
		"nobody":                                          {},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tally(c.list, ours, voters, hashSigner{ended: c.ended})
			switch {
			case c.want == digest{}:
				if !errors.Is(err, errNoMajority) {
					t.Errorf("believed %+v, %v", got, err)
				}
			case err != nil:
				t.Error(err)
			case got.index != 7 || got.digest != c.want || !slices.Equal(got.voters, c.voters) || got.checkpoint != truth.checkpoint:
				t.Errorf("believed %+v, want digest %s and voters %v", got, c.want, c.voters)
			}
			if passed, err := decodeBundle(encodeBundle(got.bundle)); err != nil || len(passed) != len(got.signers) {
				t.Errorf("passed on: %d statements of %d signers, %v", len(passed), len(got.signers), err)
			}
		})
	}
	if _, err := tally([]signedStatement{said(t, "a", truth)}, ours, []string{"a"}, nil); !errors.Is(err, errNoMajority) {
		t.Errorf("without a Signer: %v", err)
	}
}

// A checkpoint counts only where a majority found the same hash, however the rest of what
// they say agrees.
func TestACheckpointNeedsAMajority(t *testing.T) {
	voters := []string{"a", "b", "c", "d", "e"}
	say := func(hashes ...hashedCheckpoint) hashedCheckpoint {
		var list []signedStatement
		for i, h := range hashes {
			list = append(list, said(t, voters[i], statement{index: 9, voters: voters, checkpoint: h}))
		}
		a, err := tally(list, incarnation{}, voters, hashSigner{})
		if err != nil {
			t.Fatal(err)
		}
		return a.checkpoint
	}
	right, wrong, later := hashedCheckpoint{5, stateHash{1}}, hashedCheckpoint{5, stateHash{2}}, hashedCheckpoint{8, stateHash{3}}
	if got := say(right, wrong, right, wrong, right); got != right {
		t.Errorf("three of five found %v, believed %v", right, got)
	}
	if got := say(right, wrong, right, wrong); got != (hashedCheckpoint{}) {
		t.Errorf("two of five are believed: %v", got)
	}
	if got := say(later, right, later, right, right); got != right {
		t.Errorf("a checkpoint that only two have hashed is believed: %v", got)
	}
}

// A statement is read as it was written; one that was cut off, or names voters in disorder,
// is refused, and fields that a later version appends are skipped.
func TestStatementsOnTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := statement{
			index: rapid.Uint64().Draw(t, "index"), group: incarnation{byte(rapid.Int().Draw(t, "group"))},
			checkpoint: hashedCheckpoint{rapid.Uint64().Draw(t, "checkpoint"), stateHash{3}}, digest: digest{4},
		}
		for i := range rapid.IntRange(0, 7).Draw(t, "voters") {
			s.voters = append(s.voters, fmt.Sprint("host", i))
		}
		b := s.encode()
		got, err := decodeStatement(append(slices.Clone(b), "of a later version"...))
		if err != nil || !slices.Equal(got.voters, s.voters) || got.index != s.index || got.checkpoint != s.checkpoint || got.digest != s.digest || got.group != s.group {
			t.Fatalf("read %+v, %v, want %+v", got, err, s)
		}
		if _, err := decodeStatement(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); !errors.Is(err, ErrInvalidTxn) {
			t.Errorf("cut off: %v", err)
		}
	})
	for _, voters := range [][]string{{"b", "a"}, {"a", "a"}} {
		if _, err := decodeStatement((&statement{voters: voters}).encode()); !errors.Is(err, ErrInvalidTxn) {
			t.Errorf("voters %v: %v", voters, err)
		}
	}
	b := (&statement{}).encode()
	b[1]++
	if _, err := decodeStatement(b); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("a later digest: %v", err)
	}
}

// FuzzBundle: whatever another host sends as statements is refused or understood.
func FuzzBundle(f *testing.F) {
	f.Add([]byte{})
	signed := said(f, "a", statement{index: 1, voters: []string{"a"}})
	f.Add(encodeBundle([]signedStatement{signed}))
	f.Add(signed.append(nil))
	f.Add(binary.LittleEndian.AppendUint64(nil, 1<<62))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeSigned(b)
		list, err := decodeBundle(b)
		if err != nil {
			return
		}
		if len(list) > maxBundle {
			t.Errorf("%d statements", len(list))
		}
		again, err := decodeBundle(encodeBundle(list))
		if err != nil || len(again) != len(list) {
			t.Errorf("read again: %d of %d statements, %v", len(again), len(list), err)
		}
		_, _ = tally(list, incarnation{}, []string{"a"}, hashSigner{})
	})
}
