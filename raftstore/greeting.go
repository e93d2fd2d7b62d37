package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Every connection between replicas begins with an introduction, on the RPC layer and on
// the raft layer alike: the caller sends its greeting, and the other side answers with a
// verdict, its own greeting and, unless the caller is welcome, a text that says why. This
// exchange never changes. Later versions may add fields at the end of a greeting, which
// earlier ones skip. What follows it has the version that both sides negotiate.

const (
	rpcMagic  = "vmst"
	raftMagic = "vmrf"

	lowestProtocol  = 1
	highestProtocol = 1

	// maxGreeting bounds an encoded greeting and the text of a verdict.
	maxGreeting = 4 << 10
	// introductionTimeout bounds an introduction.
	introductionTimeout = 5 * time.Second
)

// protocolRange is the versions of the protocol that a side speaks.
type protocolRange struct{ lowest, highest uint8 }

// greeting is what a replica says of itself.
type greeting struct {
	protocol protocolRange
	levels   LevelRange  // zero if the sender only asks, see HearsLeader
	level    uint32      // feature level of the sender's group, zero if it has none
	group    incarnation // of the sender's group, zero if it has none
	node     string
	version  string
	target   string // raft ID of the replica that a raft connection is meant for
}

// encode returns the greeting with its length in front.
func (g greeting) encode() []byte {
	b := []byte{0, 0, g.protocol.lowest, g.protocol.highest}
	b = binary.AppendUvarint(b, uint64(g.levels.Lowest))
	b = binary.AppendUvarint(b, uint64(g.levels.Highest))
	b = binary.AppendUvarint(b, uint64(g.level))
	b = append(b, g.group[:]...)
	for _, s := range []string{g.node, g.version, g.target} {
		b = appendString(b, s)
	}
	binary.LittleEndian.PutUint16(b, uint16(len(b)-2))
	return b
}

// decodeGreeting reads a greeting without its length.
func decodeGreeting(b []byte) (greeting, error) {
	r := &reader{b: b}
	g := greeting{protocol: protocolRange{r.byte(), r.byte()}, levels: LevelRange{r.uint32(), r.uint32()}, level: r.uint32()}
	copy(g.group[:], r.raw(len(g.group)))
	g.node, g.version, g.target = r.string(), r.string(), r.string()
	switch {
	case r.err != nil:
		return greeting{}, fmt.Errorf("greeting: %w", r.err)
	case g.protocol.lowest > g.protocol.highest, g.levels.Lowest > g.levels.Highest:
		return greeting{}, fmt.Errorf("greeting: range that ends before it begins: %w", errDecode)
	case len(g.node) > 255, len(g.version) > maxVersionLen, len(g.target) > 512:
		return greeting{}, fmt.Errorf("greeting: name that is too long: %w", errDecode)
	}
	return g, nil
}

// name says who the sender is, for messages.
func (g greeting) name() string {
	node, version := "the peer", "unknown"
	if g.node != "" {
		node = fmt.Sprintf("host %q", g.node)
	}
	if g.version != "" {
		version = fmt.Sprintf("%q", g.version)
	}
	return fmt.Sprintf("%s (version %s)", node, version)
}

// negotiate returns the version of the protocol that two sides use: the lower one of
// their highest. Both sides come to the same result, and to the same words.
func negotiate(a, b greeting) (uint8, error) {
	use := min(a.protocol.highest, b.protocol.highest)
	for _, pair := range [][2]greeting{{a, b}, {b, a}} {
		older, newer := pair[0], pair[1]
		if use < newer.protocol.lowest {
			return 0, fmt.Errorf("%w: %s speaks protocol %d to %d and %s only up to %d: install %s on the latter",
				ErrFeatureLevel, newer.name(), newer.protocol.lowest, newer.protocol.highest, older.name(), older.protocol.highest, versionOrNewer(newer.version, newer.levels.Highest))
		}
	}
	return use, nil
}

// checkLevels returns why two replicas cannot work together: one of them does not know
// the feature level of their group. The level never falls, so it is the higher one of what
// both say: the other replica has not applied the raise yet, and must get it to do so.
func checkLevels(a, b greeting) error {
	mesh := a
	if b.level > a.level {
		mesh = b
	}
	for _, host := range []greeting{a, b} {
		switch {
		case mesh.level == 0 || host.levels.Contains(mesh.level):
		case mesh.level > host.levels.Highest:
			return fmt.Errorf("%w: this mesh is at feature level %d, says %s, and %s knows %s: install %s there",
				ErrFeatureLevel, mesh.level, mesh.name(), host.name(), host.levels, versionOrNewer(mesh.version, mesh.level))
		default:
			return fmt.Errorf("%w: this mesh is at feature level %d, says %s, and %s knows %s: raise the level first, or install a version there that knows level %d",
				ErrTooNew, mesh.level, mesh.name(), host.name(), host.levels, mesh.level)
		}
	}
	return nil
}

// verdict is the answer to a greeting. A caller takes a verdict that it does not know for
// verdictRefused.
type verdict byte

const (
	verdictWelcome verdict = iota + 1
	// verdictLimited: the feature levels do not match, so only a question that explains
	// this is answered, and every other request with the text.
	verdictLimited
	verdictRefused
)

// errUnwelcome: the peer refuses the connection, and says why.
var errUnwelcome = errors.New("the peer refuses")

// introduce sends a greeting and returns the peer's, also if the peer refuses, which is
// an error.
func introduce(conn net.Conn, magic string, own greeting, timeout time.Duration) (theirs greeting, err error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return greeting{}, err
	}
	if _, err := conn.Write(append([]byte(magic), own.encode()...)); err != nil {
		return greeting{}, fmt.Errorf("send a greeting: %w", err)
	}
	var head [1]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return greeting{}, fmt.Errorf("read the answer to a greeting: %w", err)
	}
	if theirs, err = readGreeting(conn); err != nil {
		return greeting{}, err
	}
	text, err := readShort(conn)
	if err != nil {
		return theirs, fmt.Errorf("read the answer to a greeting: %w", err)
	}
	switch verdict(head[0]) {
	case verdictWelcome, verdictLimited:
		return theirs, conn.SetDeadline(time.Time{})
	default:
		return theirs, fmt.Errorf("%w: %q", errUnwelcome, text)
	}
}

// receive reads the greeting of a caller.
func receive(conn net.Conn, magic string) (greeting, error) {
	if err := conn.SetDeadline(time.Now().Add(introductionTimeout)); err != nil {
		return greeting{}, err
	}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(conn, head); err != nil {
		return greeting{}, fmt.Errorf("read a greeting: %w", err)
	}
	if string(head) != magic {
		return greeting{}, errors.New("the peer speaks another protocol")
	}
	return readGreeting(conn)
}

// answer answers the greeting of a caller. why says why it is not welcome.
func answer(conn net.Conn, v verdict, own greeting, why error) error {
	b := append([]byte{byte(v)}, own.encode()...)
	text := ""
	if why != nil {
		text = why.Error()
		text = text[:min(len(text), maxGreeting)]
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	if _, err := conn.Write(append(b, text...)); err != nil {
		return fmt.Errorf("answer a greeting: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}

func readGreeting(r io.Reader) (greeting, error) {
	b, err := readShort(r)
	if err != nil {
		return greeting{}, fmt.Errorf("read a greeting: %w", err)
	}
	return decodeGreeting(b)
}

// readShort reads bytes with a length of two bytes in front. It reads nothing behind them.
func readShort(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint16(head[:])
	if n > maxGreeting {
		return nil, fmt.Errorf("%d bytes, more than %d: %w", n, maxGreeting, errDecode)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
