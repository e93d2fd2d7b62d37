package raftstore

import (
	"context"
	"time"
)

// rejoinLoop joins the group again if the group removed this replica while it was
// cut off. Such a replica has a configuration in its log but hears no leader. The same
// happens, and sooner, if the group replaced the voters meanwhile, and one of the new ones
// leads: the answer names them. On a
// leader, the loop greets the members that are no replicas of its group.
func (s *Store) rejoinLoop() {
	every := s.cfg.Timing.Rejoin
	if every == 0 || s.cfg.Members == nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var asked time.Time
	for {
		silent := every
		select {
		case <-tick.C:
		case <-s.stranger:
			if time.Since(asked) < every/10 {
				continue // it says so again
			}
			silent = s.staleFeed()
		case <-s.closing:
			return
		}
		if s.left.Load() || s.Err() != nil {
			continue
		}
		if s.IsLeader() {
			s.greetNonReplicas()
			continue
		}
		if age := s.lastContact(); age >= 0 && age < silent {
			continue
		}
		asked = time.Now()
		if servers, err := s.servers(); err != nil || len(servers) == 0 {
			continue // never was in a group: joining it is up to the caller
		}
		s.rejoinGroup(every)
	}
}

// rejoinGroup asks the members to add this replica again, the living ones first. Those
// that seem dead may be alive: the membership layer may be split, which is why this
// replica was removed.
func (s *Store) rejoinGroup(timeout time.Duration) {
	var seeds, others []string
	for _, m := range s.cfg.Members() {
		switch {
		case m.ID == s.cfg.NodeID || m.Addr == "":
		case m.Alive:
			seeds = append(seeds, m.Addr)
		default:
			others = append(others, m.Addr)
		}
	}
	seeds = append(seeds, others...)
	if len(seeds) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.base, timeout)
	defer cancel()
	if err := s.joinAny(ctx, seeds); err != nil {
		s.log.Info("this replica hears no leader and could not join again", "err", err)
	}
}

// greetNonReplicas connects to the living members that are no replicas of the group
// that this replica leads. Most of them are about to join. A member may however
// belong to a group that replaced this one, or that this one replaced. The greeting of
// the connection then tells the older group. That group may have a majority of its
// own, so nothing else would make it talk to the other group.
func (s *Store) greetNonReplicas() {
	servers, err := s.servers()
	if err != nil {
		return
	}
	ours := map[string]bool{s.cfg.NodeID: true}
	for _, srv := range servers {
		ours[nodeOf(srv.ID)] = true
	}
	for node := range s.followers.judge(s.SilenceLimit(), 0) {
		ours[node] = true
	}
	for _, m := range s.cfg.Members() {
		if !m.Alive || ours[m.ID] || m.Addr == "" {
			continue
		}
		if _, err := s.peers.call(s.base, m.Addr, opStats, nil); err != nil {
			s.log.Info("a member of the mesh is no replica of this group", "member", m.ID, "err", err)
		}
	}
}
