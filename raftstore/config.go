package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits that every replica must share, because entries are checked against them.
const (
	// MaxRequestIDLen is the longest RequestID in bytes.
	MaxRequestIDLen = 64
	// MaxKeyLen is the longest key in bytes.
	MaxKeyLen = 2048
	// MaxTxnOps is the most ops, conditions or constraint calls in a txn.
	MaxTxnOps = 4096
)

// StreamLayer is a listener that can also dial its peers. It dials the addresses
// passed to Open and Join. The implementation must authenticate both ends.
type StreamLayer interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// Config says how to open a Store. Start from DefaultConfig.
type Config struct {
	// NodeID names the host of this replica. Addr is the address at which peers
	// reach it, both for Raft and for RPC.
	NodeID string
	Addr   string
	// Version names the version of the program, for messages. It has no spaces.
	Version string
	// FeatureLevel is the feature levels that this version knows. A group that is founded
	// begins at the highest.
	FeatureLevel LevelRange
	// DataDir holds the log and the snapshots. If it is empty, everything is kept
	// in memory and lost at Close: for tests and benchmarks only.
	DataDir string
	// Bootstrap makes a store without state the first voter of a new group. Set it
	// only to found a group: a member that lost its data and bootstraps would found
	// a second group. Bootstrapping may be repeated after a crash.
	Bootstrap bool

	// Remedy tells operators how to have this replica fetch its data again. It ends every
	// error that nothing else helps against: ErrReplaced, ErrDiverged,
	// ErrVotersGone and ErrCorruptLog.
	Remedy string
	// Raft carries hashicorp/raft's own protocol, RPC this package's.
	Raft StreamLayer
	RPC  StreamLayer
	// PeerOf returns the NodeID of the host at the other end of a connection that Raft or RPC
	// has accepted or dialled, as the host has proved it. Nil means that a peer is believed
	// who it is: for tests and benchmarks only.
	PeerOf func(net.Conn) string

	// Constraints are the rules this replica can judge.
	Constraints []Constraint
	// Signer signs what this replica says about its state, and verifies what others say. Nil
	// means that nothing is signed: then no replica can join a group in which replicas follow.
	Signer Signer
	// Members reports the health of the mesh's hosts and must not block. If it is
	// nil, a replica's health is judged by Raft's contact with it alone.
	Members func() []MemberHealth

	// MayChange, if set, is asked by a replica that leads about each txn that another host has
	// sent; from is the NodeID of that host. ErrForbidden refuses the txn for good; with any other
	// error the host tries again. What is stored may change until the txn is judged, so that what
	// the answer rests on is to be a condition of the txn. It must not block.
	MayChange func(s *Store, from string, t Txn) error

	// BootTime reads the clock of leases, see RenewLease. It must go on while the host is
	// suspended, and nobody may set it. Only its differences count.
	BootTime func() time.Duration

	// Timing holds the timeouts of the group, Limits the bounds on memory and
	// entries, Voters the choice of voters.
	Timing Timing
	Limits Limits
	Voters VoterPolicy

	Logger     *slog.Logger
	Registerer prometheus.Registerer

	// LogFiles, if set, returns where the log in a directory is kept in place of the
	// operating system's files. Only tests set it.
	LogFiles func(dir string) LogFiles

	// openLog replaces the log store. Tests and benchmarks set it.
	openLog func(dir string) (diskLog, error)
}

// Timing holds the timeouts of a group.
type Timing struct {
	// Heartbeat is how long a follower waits without hearing from a leader before it
	// stands for election, and how long a leader without a quorum keeps its office.
	Heartbeat time.Duration
	// Dial bounds connecting to a peer, RPC one request to it.
	Dial time.Duration
	RPC  time.Duration
	// SnapshotCheck is how often the store checks whether a snapshot is due.
	SnapshotCheck time.Duration
	// Rejoin is how long a replica of a group must be without a leader before it
	// asks the living members to add it again: the group may have removed it while
	// it was cut off. Zero means never.
	Rejoin time.Duration
	// Compare is how often the replicas compare digests of their state. Zero means
	// never.
	Compare time.Duration
}

// Limits bounds memory, disk and entries.
type Limits struct {
	// MaxTxnBytes is the largest encoded txn.
	MaxTxnBytes int
	// BatchTxns and BatchBytes bound one log entry.
	BatchTxns  int
	BatchBytes int
	// The history is the window of recent events that serves watches and lists at an
	// earlier revision. HistoryEvents and HistoryBytes bound it, the bytes counting what
	// it keeps in memory: the values that were replaced, see packed.go. Events older than HistoryTime
	// are dropped before that, apart from the newest HistoryFloor bytes.
	HistoryEvents int
	HistoryBytes  int
	HistoryTime   time.Duration
	HistoryFloor  int
	// SnapshotEntries and SnapshotBytes are the amounts of log after which a
	// snapshot is due.
	SnapshotEntries uint64
	SnapshotBytes   uint64
	// SegmentBytes is the size of a log file; files are allocated in full.
	SegmentBytes int
	// BallastFiles is for how many further log files room is set aside on the disk, for when
	// others have filled it; 0 for none.
	BallastFiles int
	// After a snapshot, the part of the log stays on disk by which a replica that was
	// away can catch up without a snapshot: what is younger than TrailingTime, and the
	// newest TrailingFloor bytes whatever their age; but not more than TrailingEntries
	// or TrailingBytes.
	TrailingEntries uint64
	TrailingBytes   uint64
	TrailingTime    time.Duration
	TrailingFloor   uint64
	// SnapshotFeedBytes is how many bytes a second a replica sends of its snapshots, to all
	// followers that ask it for one.
	SnapshotFeedBytes int
}

// VoterPolicy says how voters are chosen and when dead replicas are removed.
type VoterPolicy struct {
	// Max is the most voters: 1, 3, 5 or 7.
	Max int
	// Limit, if set, returns which nodes may vote, by what is stored in this replica. It is
	// asked at each update, and must not block.
	Limit func(*Store) VoterLimit
	// Stabilization is how long a replica must be healthy before it may vote.
	Stabilization time.Duration
	// Update is the interval at which the health of replicas is read, Reconcile the
	// interval at which voters are promoted, demoted and removed.
	Update    time.Duration
	Reconcile time.Duration
	// ForgetAfter is how long a replica must be dead before it is removed from the
	// group. A removed replica must join again. Zero means never.
	ForgetAfter time.Duration
}

// DefaultConfig returns a Config that needs NodeID, Addr, DataDir, Raft and RPC.
func DefaultConfig() Config {
	return Config{
		FeatureLevel: KnownLevels(),
		BootTime:     BootTime,
		Remedy:       "empty the replica's data directory and join again",
		Timing: Timing{
			Heartbeat:     1500 * time.Millisecond,
			Dial:          3 * time.Second,
			RPC:           10 * time.Second,
			SnapshotCheck: 5 * time.Second,
			Rejoin:        30 * time.Second,
			Compare:       5 * time.Second,
		},
		Limits: Limits{
			MaxTxnBytes:     4 << 20,
			BatchTxns:       256,
			BatchBytes:      512 << 10,
			HistoryEvents:   256 << 10,
			HistoryBytes:    48 << 20,
			HistoryTime:     10 * time.Minute,
			HistoryFloor:    4 << 20,
			SnapshotEntries: 16384,
			SnapshotBytes:   64 << 20,
			SegmentBytes:    16 << 20,
			TrailingEntries: 1 << 20,
			TrailingBytes:   256 << 20,
			TrailingTime:    15 * time.Minute,
			TrailingFloor:   16 << 20,

			SnapshotFeedBytes: 32 << 20,
		},
		Voters: VoterPolicy{
			Max:           5,
			Stabilization: 10 * time.Second,
			Update:        2 * time.Second,
			Reconcile:     5 * time.Second,
			ForgetAfter:   24 * time.Hour,
		},
		Logger: slog.New(slog.DiscardHandler),
	}
}

// Validate reports every field that cannot be used.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.NodeID != "", "NodeID is empty")
	check(len(c.NodeID) <= 200 && !strings.ContainsAny(c.NodeID, "/|"), "NodeID %q is longer than 200 bytes or contains / or |", c.NodeID)
	check(c.Addr != "", "Addr is empty")
	check(len(c.Version) <= maxVersionLen && !strings.Contains(c.Version, " "), "Version %q is longer than %d bytes or contains a space", c.Version, maxVersionLen)
	check(c.Raft != nil, "Raft stream layer is missing")
	check(c.RPC != nil, "RPC stream layer is missing")
	check(c.BootTime != nil, "BootTime is missing")
	check(c.Logger != nil, "Logger is missing")
	if err := c.FeatureLevel.validate(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.Timing.validate()...)
	errs = append(errs, c.Limits.validate()...)
	errs = append(errs, c.Voters.validate()...)
	if _, err := newConstraintSet(c.Constraints); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("raftstore config: %w", err)
	}
	return nil
}

func (t *Timing) validate() (errs []error) {
	if t.Heartbeat < 20*time.Millisecond {
		errs = append(errs, fmt.Errorf("Timing.Heartbeat %s is below 20ms", t.Heartbeat))
	}
	if t.Dial <= 0 || t.RPC <= 0 || t.SnapshotCheck <= 0 {
		errs = append(errs, errors.New("Timing.Dial, RPC and SnapshotCheck must be positive"))
	}
	if t.Rejoin < 0 || t.Compare < 0 {
		errs = append(errs, fmt.Errorf("Timing.Rejoin %s or Compare %s is negative", t.Rejoin, t.Compare))
	}
	return errs
}

func (l *Limits) validate() (errs []error) {
	if l.MaxTxnBytes < 1024 || l.MaxTxnBytes > maxFrame/2 {
		errs = append(errs, fmt.Errorf("Limits.MaxTxnBytes %d is not within 1024..%d", l.MaxTxnBytes, maxFrame/2))
	}
	if l.BatchTxns < 1 || l.BatchBytes < 1 {
		errs = append(errs, errors.New("Limits.BatchTxns and BatchBytes must be positive"))
	}
	if l.HistoryEvents < 1 || l.HistoryBytes < 1 || l.HistoryTime <= 0 || l.HistoryFloor < 0 {
		errs = append(errs, errors.New("Limits.HistoryEvents, HistoryBytes and HistoryTime must be positive, HistoryFloor not negative"))
	}
	if l.SegmentBytes < 4096 || l.BallastFiles < 0 {
		errs = append(errs, fmt.Errorf("Limits.SegmentBytes %d is below 4096, or BallastFiles %d below 0", l.SegmentBytes, l.BallastFiles))
	}
	if l.SnapshotEntries < 1 || l.SnapshotBytes < 1 {
		errs = append(errs, errors.New("Limits.SnapshotEntries and SnapshotBytes must be positive"))
	}
	if l.TrailingEntries < 1 || l.TrailingBytes < 1 || l.TrailingTime <= 0 {
		errs = append(errs, errors.New("Limits.TrailingEntries, TrailingBytes and TrailingTime must be positive"))
	}
	if l.SnapshotFeedBytes < snapshotPiece {
		errs = append(errs, fmt.Errorf("Limits.SnapshotFeedBytes %d is below %d", l.SnapshotFeedBytes, snapshotPiece))
	}
	return errs
}

func (v *VoterPolicy) validate() (errs []error) {
	switch v.Max {
	case 1, 3, 5, 7:
	default:
		errs = append(errs, fmt.Errorf("Voters.Max %d is not 1, 3, 5 or 7", v.Max))
	}
	if v.Update <= 0 || v.Reconcile <= 0 || v.Stabilization < 0 || v.ForgetAfter < 0 {
		errs = append(errs, errors.New("Voters.Update and Reconcile must be positive, Stabilization and ForgetAfter not negative"))
	}
	return errs
}
