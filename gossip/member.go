package gossip

import (
	"fmt"
	"net"
	"time"
)

// State is what the mesh believes of a member.
//
//	          probe failed, somewhere             held for Profile.HoldFor
//	  Alive -------------------------> Suspect -------------------------> Dead
//	    ^  ^                              |                                 |
//	    |  '------------- refuted --------'                                 |
//	    |                                                                   |
//	    '------------- heard of again, with a newer incarnation ------------'
//
//	Alive, Suspect -- says goodbye --> Left -- joins again --> Alive
//	Dead, Left -- retention over --> forgotten
type State uint8

// The states of a member.
const (
	Alive State = iota
	Suspect
	Dead
	Left
)

// String returns the lower-case name, as used in logs and metric labels.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	default:
		return fmt.Sprintf("state(%d)", uint8(s))
	}
}

// Live reports whether the member counts as present: Alive or Suspect.
func (s State) Live() bool { return s == Alive || s == Suspect }

// Member is one agent of the mesh as seen from here.
type Member struct {
	// Name is unique in the mesh.
	Name string
	// Addr is the host:port the member gossips on.
	Addr string
	// State is what this agent believes of the member, Since when it began.
	State State
	Since time.Time
	// Facts are the newest facts known. Until some have arrived they hold only
	// MeshAddr and FeatureLevel. They are shared: do not modify.
	Facts Facts
	// FactsAt is when those facts arrived here; zero if none have.
	FactsAt time.Time
}

// EventType says what happened to a member.
type EventType uint8

// The types of events.
const (
	// EventResync says that events may be missing (it is also the first event
	// of every subscription): read Members and carry on from there.
	EventResync EventType = iota
	EventAlive
	EventSuspect
	EventDead
	EventLeft
	// EventFacts says that facts changed and the state did not.
	EventFacts
	// EventForgotten says that a dead or left member is no longer remembered.
	EventForgotten
)

// String returns the lower-case name, as used in logs.
func (t EventType) String() string {
	switch t {
	case EventResync:
		return "resync"
	case EventAlive:
		return "alive"
	case EventSuspect:
		return "suspect"
	case EventDead:
		return "dead"
	case EventLeft:
		return "left"
	case EventFacts:
		return "facts"
	case EventForgotten:
		return "forgotten"
	default:
		return fmt.Sprintf("event(%d)", uint8(t))
	}
}

// eventOf is the event that announces that a member entered state s.
func eventOf(s State) EventType {
	switch s {
	case Suspect:
		return EventSuspect
	case Dead:
		return EventDead
	case Left:
		return EventLeft
	default:
		return EventAlive
	}
}

// Event is a change of one member.
type Event struct {
	Type EventType
	// Member is the member after the change, empty for EventResync.
	Member Member
	// Merged counts older events of the same member that the subscriber was
	// too slow to be given one by one.
	Merged int
}

// endpoint is where a member gossips.
type endpoint struct {
	ip   net.IP
	port uint16
}
