package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// startEtcd starts three members of etcd below a directory. Their settings are
// etcd's own, but for a quota that a long round cannot fill.
func startEtcd(ctx context.Context, dir string) (*cluster, error) {
	addresses, err := freeAddresses(2 * members)
	if err != nil {
		return nil, err
	}
	var initial []string
	for i := range members {
		initial = append(initial, fmt.Sprintf("member%d=http://%s", i, addresses[i]))
	}
	c := &cluster{name: "etcd"}
	for i := range members {
		peer, client := "http://"+addresses[i], "http://"+addresses[members+i]
		c.endpoints = append(c.endpoints, addresses[members+i])
		err := c.spawn(exec.CommandContext(ctx, "etcd",
			"--name", fmt.Sprintf("member%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("etcd%d", i)),
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--quota-backend-bytes", "8589934592", "--logger", "zap", "--log-level", "error"))
		if err != nil {
			c.stop()
			return nil, err
		}
	}
	return c, nil
}
