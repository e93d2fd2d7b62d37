package raftstore

type autopilotState struct{}

func (s *Store) startAutopilot() {}
func (s *Store) stopAutopilot()  {}
