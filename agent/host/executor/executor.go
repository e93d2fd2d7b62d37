package executor

import (
	"fmt"
	"sync"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// MaxStarts bounds how many workers start guests at once. A start may hang for
// minutes, on a disk that does not answer or on a slow libvirt daemon. The controller
// has more workers than this, so that other guests are stopped and reported meanwhile.
const MaxStarts = 12

// Executor reconciles the instances of this host. It is a
// stewards.Reconciler, and a stewards.Source of the keys of domains that
// changed.
type Executor struct {
	Config

	mu sync.Mutex
	// listeners are called with the keys of domains that changed.
	listeners map[int]func(stewards.Key)
	nextID    int

	tasks        *tasks
	preparations *preparations
	agents       *agents
	traces       *traces
	failures     *failures
	shutdowns    *shutdowns
	limits       *limits
	flips        *flips
	consoles     *sessions
	displays     *sessions
	forwards     *forwards
	thaws        *thaws
	pictures     *pictures
	logs         guestLogs
	// starting has an entry for each start under way.
	starting chan struct{}
	// now returns the time. interrupt, if set, may end a plan before a step: tests
	// simulate the death of the agent with it.
	now       func() time.Time
	interrupt func(Step) error
}

var (
	_ stewards.Reconciler = (*Executor)(nil)
	_ stewards.Source     = (*Executor)(nil)
)

// New makes an executor. It does nothing before its controller runs. The caller
// closes it after the controller has ended.
func New(config Config) (*Executor, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.BootTime == nil {
		config.BootTime = raftstore.BootTime
	}
	now := config.Clock.Now
	e := &Executor{
		Config: config, listeners: map[int]func(stewards.Key){}, tasks: newTasks(), traces: newTraces(),
		failures: newFailures(), shutdowns: newShutdowns(), limits: newLimits(), flips: newFlips(now), consoles: newConsoles(), displays: newDisplays(), forwards: newForwards(), thaws: newThaws(), pictures: newPictures(),
		logs: newGuestLogs(config), now: now,
		starting: make(chan struct{}, MaxStarts),
	}
	news := func(ref hypervisor.Ref) { e.notify(keyOf(ref)) }
	e.preparations = newPreparations(config, e.tasks, news)
	e.agents = newAgents(config.Hypervisor, e.tasks, now, news)
	owners, err := config.Volumes.Owners()
	if err != nil {
		return nil, fmt.Errorf("instance executor: list the instances that have disks on this host: %w", err)
	}
	for _, ref := range owners {
		e.traces.addInstance(ref)
	}
	return e, nil
}

// Close ends the executor's background tasks and releases the volumes that they
// prepared. Guests are not touched.
func (e *Executor) Close() {
	e.tasks.close()
	e.preparations.close()
}
