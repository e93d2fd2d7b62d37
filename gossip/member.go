package gossip

import (
	"fmt"
	"net"
	"time"
)

// State is what this process believes about a member.
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

// Member is one member of the mesh as this process sees it.
type Member struct {
	// Name is unique in the mesh.
	Name string
	// Addr is the host:port the member gossips on.
	Addr string
	// State is what this process believes about the member. Since is when the
	// member entered that state.
	State State
	Since time.Time
	// Facts are the newest known facts. Until the first ones arrive they hold only
	// MeshAddr and the feature levels. They are shared and must not be modified.
	Facts Facts
}

// EventType says what happened to a member.
type EventType uint8

// The types of events.
const (
	// EventResync says that events may be missing: the reader must read Members
	// again and continue from there. It is also the first event of every
	// subscription.
	EventResync EventType = iota
	EventAlive
	EventSuspect
	EventDead
	EventLeft
	// EventFacts says that the facts of a member changed but its state did not.
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

// eventOf returns the type of the event for a member that entered state s.
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
	// Merged counts the older events of the same member that were merged into this
	// one because the subscriber was too slow.
	Merged int
}

// endpoint is the address and port that a member gossips on.
type endpoint struct {
	ip   net.IP
	port uint16
}
