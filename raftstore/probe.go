package raftstore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// HearsLeader asks the replica at the other end of a connection whether its group has a
// leader: the replica leads, or has heard its leader within limit. It is for a host that
// has no replica running, before it founds a new group. The connection, which is one of
// the RPC layer, can be used for nothing else afterwards.
func HearsLeader(conn net.Conn, limit time.Duration) (bool, error) {
	// A replica talks to a peer without a group, whatever its own group is, and tells its
	// figures to a peer of any feature level.
	stranger := greeting{protocol: protocolRange{lowestProtocol, highestProtocol}}
	theirs, err := introduce(conn, rpcMagic, stranger, introductionTimeout)
	if theirs != (greeting{}) {
		if _, err := negotiate(stranger, theirs); err != nil {
			return false, fmt.Errorf("ask for a leader: %w", err)
		}
	}
	if err != nil {
		return false, fmt.Errorf("ask for a leader: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(introductionTimeout)); err != nil {
		return false, err
	}
	r := bufio.NewReader(conn)
	w := bufio.NewWriter(conn)
	if err := errors.Join(writeFrame(w, frame{id: 1, code: uint8(opStats)}), w.Flush()); err != nil {
		return false, fmt.Errorf("ask for a leader: %w", err)
	}
	answer, err := readFrame(r)
	if err != nil {
		return false, fmt.Errorf("ask for a leader: %w", err)
	}
	if s := status(answer.code); s != statusOK {
		return false, fmt.Errorf("ask for a leader: %w", errorOf(s, answer.payload))
	}
	var st stats
	if err := json.Unmarshal(answer.payload, &st); err != nil {
		return false, fmt.Errorf("ask for a leader: %w: %w", errDecode, err)
	}
	return st.LastContact >= 0 && st.LastContact < limit, nil
}
