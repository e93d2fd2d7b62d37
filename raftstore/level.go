package raftstore

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
)

// The feature level of a group says which constraints and formats its replicas may use.
// It is one record of the replicated state, so snapshots, backups and replicas that join
// carry it. It is only ever raised, by a txn of RaiseFeatureLevel.

// BaseLevel is the feature level of a group that was never raised.
const BaseLevel = 1

// FollowersLevel is the feature level from which on replicas follow outside the Raft
// configuration.
const FollowersLevel = 2

// levelKey is the key of the record of the feature level. Only RaiseFeatureLevel and the
// founding of a group write it.
const levelKey = "/featurelevel"

// levelConstraint is the name under which the machine refuses a change of the feature
// level.
const levelConstraint = "featurelevel"

// LevelRange is the feature levels that a version knows.
type LevelRange struct {
	Lowest  uint32 `json:"lowest"`
	Highest uint32 `json:"highest"`
}

// KnownLevels returns the feature levels that this package knows.
func KnownLevels() LevelRange { return LevelRange{Lowest: BaseLevel, Highest: FollowersLevel} }

// Contains reports whether the version knows a level.
func (r LevelRange) Contains(level uint32) bool { return r.Lowest <= level && level <= r.Highest }

// String returns the range in words.
func (r LevelRange) String() string {
	switch {
	case r.Highest == 0:
		return "no feature level"
	case r.Lowest == r.Highest:
		return fmt.Sprintf("feature level %d", r.Highest)
	default:
		return fmt.Sprintf("feature levels %d to %d", r.Lowest, r.Highest)
	}
}

func (r LevelRange) validate() error {
	if r.Lowest < BaseLevel || r.Highest < r.Lowest {
		return fmt.Errorf("FeatureLevel: %d to %d is no range of levels from %d on", r.Lowest, r.Highest, BaseLevel)
	}
	return nil
}

// maxVersionLen bounds the name of a version, in bytes.
const maxVersionLen = 64

// groupLevel is the feature level of a group, and the version of the leader that raised
// it. Its record holds both in decimal and text, separated by a space. Whatever later
// versions append after another space is ignored.
type groupLevel struct {
	level   uint32
	version string
}

func (l groupLevel) encode() []byte {
	return fmt.Appendf(nil, "%d %s", l.level, strings.ReplaceAll(l.version, " ", "_"))
}

// decodeLevel reads the record of the feature level.
func decodeLevel(value []byte) (groupLevel, error) {
	if len(value) > 1024 {
		return groupLevel{}, fmt.Errorf("feature level of %d bytes: %w", len(value), errDecode)
	}
	number, rest, _ := strings.Cut(string(value), " ")
	level, err := strconv.ParseUint(number, 10, 32)
	if err != nil || level < BaseLevel || level == math.MaxUint32 {
		return groupLevel{}, fmt.Errorf("feature level %q: %w", number, errDecode)
	}
	version, _, _ := strings.Cut(rest, " ")
	return groupLevel{uint32(level), version[:min(len(version), maxVersionLen)]}, nil
}

// levelOf returns the feature level of a state.
func levelOf(t *tree) (groupLevel, error) {
	r, ok := t.Get(&stored{key: levelKey})
	if !ok {
		return groupLevel{level: BaseLevel}, nil
	}
	return decodeLevel(r.value.value())
}

// checkKnown returns why a version that knows the given levels cannot work with a state
// at this level.
func (l groupLevel) checkKnown(levels LevelRange) error {
	switch {
	case l.level > levels.Highest:
		return fmt.Errorf("%w: this mesh is at feature level %d, and this version knows %s: install %s",
			ErrFeatureLevel, l.level, levels, versionOrNewer(l.version, l.level))
	case l.level < levels.Lowest:
		return fmt.Errorf("%w: this mesh is at feature level %d, and this version knows %s: install a version that knows level %d, and raise the level first",
			ErrTooNew, l.level, levels, l.level)
	}
	return nil
}

// versionOrNewer names what to install where a feature level is not known.
func versionOrNewer(version string, level uint32) string {
	if version == "" {
		return fmt.Sprintf("a version that knows level %d", level)
	}
	return fmt.Sprintf("version %q or newer", version)
}

// raises returns whether the txn writes the feature level, and the highest one that it
// writes.
func (t *Txn) raises() (highest groupLevel, ok bool) {
	for i := range t.Ops {
		if t.Ops[i].Key != levelKey {
			continue
		}
		ok = true
		if l, err := decodeLevel(t.Ops[i].Value); err == nil && l.level > highest.level {
			highest = l
		}
	}
	return highest, ok
}

// raiseCheck is called before the ops of t are carried out. What it returns is called
// after them, and says why t must not change the feature level so.
func (m *machine) raiseCheck(t *Txn) func() error {
	if _, ok := t.raises(); !ok {
		return func() error { return nil }
	}
	before, err := levelOf(m.tree)
	if err != nil {
		return func() error { return err }
	}
	return func() error {
		after, err := levelOf(m.tree)
		switch {
		case err != nil:
			return err
		case after.level <= before.level:
			return fmt.Errorf("the feature level is %d, and can only be raised", before.level)
		}
		return nil
	}
}

// levelState is the feature level of a replica: what its version knows, and the level of
// the state that it has applied.
type levelState struct {
	known LevelRange
	now   atomic.Uint32
}

func newLevelState(known LevelRange) *levelState {
	s := &levelState{known: known}
	s.now.Store(BaseLevel)
	return s
}

// FeatureLevel returns the feature level of the group, as this replica has applied it.
func (s *Store) FeatureLevel() uint32 { return s.levels.now.Load() }
