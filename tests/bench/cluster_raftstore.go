package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// memberSpec tells a member process what to be. It comes on its standard input,
// the end of which tells it to end.
type memberSpec struct {
	Index int            `json:"index"`
	Dir   string         `json:"dir"`
	Peers []memberPlaces `json:"peers"`
}

// memberPlaces are the addresses of a member: raft's own protocol, the store's
// and the client's.
type memberPlaces struct {
	Raft   string `json:"raft"`
	RPC    string `json:"rpc"`
	Client string `json:"client"`
}

// startRaftstore starts three members of raftstore below a directory, each a
// process of this program.
func startRaftstore(ctx context.Context, dir string) (*cluster, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	addresses, err := freeAddresses(3 * members)
	if err != nil {
		return nil, err
	}
	c := &cluster{name: "raftstore"}
	var peers []memberPlaces
	for i := range members {
		p := memberPlaces{Raft: addresses[3*i], RPC: addresses[3*i+1], Client: addresses[3*i+2]}
		peers = append(peers, p)
		c.endpoints = append(c.endpoints, p.Client)
	}
	dir = filepath.Join(dir, "raftstore")
	if err := makeIdentities(dir, peers); err != nil {
		return nil, err
	}
	for i := range members {
		spec := memberSpec{Index: i, Dir: dirOf(dir, i), Peers: peers}
		if err := c.spawnMember(ctx, self, spec); err != nil {
			c.stop()
			return nil, err
		}
	}
	return c, nil
}

func (c *cluster) spawnMember(ctx context.Context, self string, spec memberSpec) error {
	cmd := exec.CommandContext(ctx, self, memberCommand)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start a member of %s: %w", c.name, err)
	}
	if err := c.spawn(cmd); err != nil {
		return err
	}
	c.closers = append(c.closers, func() { _ = stdin.Close() })
	if err := json.NewEncoder(stdin).Encode(spec); err != nil {
		return fmt.Errorf("tell a member of %s what to be: %w", c.name, err)
	}
	return nil
}
