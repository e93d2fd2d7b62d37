package executor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
)

// prepareTimeout ends a preparation. A pull that makes no progress ends much
// earlier by itself; this is the net under everything else.
const prepareTimeout = time.Hour

// maxPreparations bounds how many go on at once; the others wait for a turn.
const maxPreparations = 64

// preparation is one instance's volumes being made ready. That takes as long as
// pulling an image does, so no worker waits for it: deletions and reports of
// other instances go on meanwhile, and a deletion of this one ends it.
type preparation struct {
	// epoch is that of the claim it began under.
	epoch  uint64
	cancel context.CancelFunc
	// done is closed when the fields below are set.
	done    chan struct{}
	disks   map[string]domain.Disk
	release func()
	err     error
}

func (p *preparation) finished() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// free gives back what a finished preparation holds.
func (p *preparation) free() {
	if p.release != nil {
		p.release()
	}
}

// preparations are those of this host, by the instance's UID. The engine never
// reconciles one instance twice at once, so each has one caller at a time.
type preparations struct {
	volumes Volumes
	tasks   *tasks
	log     *slog.Logger
	// ended is told whose preparation has ended.
	ended func(hypervisor.Ref)
	turns chan struct{}

	mu    sync.Mutex
	byUID map[string]*preparation
}

func newPreparations(config Config, tasks *tasks, ended func(hypervisor.Ref)) *preparations {
	return &preparations{
		volumes: config.Volumes, tasks: tasks, log: config.Logger, ended: ended,
		turns: make(chan struct{}, maxPreparations), byUID: map[string]*preparation{},
	}
}

// get returns the instance's preparation, or nil.
func (p *preparations) get(uid string) *preparation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byUID[uid]
}

// progress tells how far the instance's preparation is, and the epoch it began
// under. One that failed is handed to failed, and is none any more.
func (p *preparations) progress(uid string, failed func(error)) (work, uint64) {
	begun := p.get(uid)
	switch {
	case begun == nil:
		return workNone, 0
	case !begun.finished():
		return workUnderWay, begun.epoch
	case begun.err != nil:
		p.take(uid)
		begun.free()
		failed(begun.err)
		return workNone, 0
	}
	return workReady, begun.epoch
}

// begin starts one. The instance has none.
func (p *preparations) begin(vmi *kubevirtv1.VirtualMachineInstance, epoch uint64) error {
	ref := refOf(vmi)
	// The task's own context ends it too; cancel is for this one alone.
	own, cancel := context.WithTimeout(context.Background(), prepareTimeout)
	work := &preparation{epoch: epoch, cancel: cancel, done: make(chan struct{})}
	p.mu.Lock()
	p.byUID[ref.UID] = work
	p.mu.Unlock()
	err := p.tasks.begin(func(life context.Context) {
		defer context.AfterFunc(life, cancel)()
		defer cancel()
		p.run(own, vmi, work)
		close(work.done)
		p.ended(ref)
	})
	if err != nil {
		cancel()
		p.take(ref.UID)
	}
	return err
}

// run does the work. What it reads was written by strangers, so a panic fails
// this one instance and not the agent.
func (p *preparations) run(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, work *preparation) {
	defer func() {
		if cause := recover(); cause != nil {
			p.log.Error("preparing volumes panicked", "instance", refOf(vmi).String(), "panic", cause, "stack", string(debug.Stack()))
			work.err = fmt.Errorf("prepare volumes: panic: %v", cause)
		}
	}()
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		work.err = ctx.Err()
		return
	}
	work.disks, work.release, work.err = p.volumes.Prepare(ctx, vmi)
}

// take hands a preparation over to its caller, who frees it.
func (p *preparations) take(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byUID, uid)
}

// drop ends an instance's preparation, if it has one, and waits for that: what
// it made can be removed only then.
func (p *preparations) drop(ctx context.Context, uid string) error {
	work := p.get(uid)
	if work == nil {
		return nil
	}
	work.cancel()
	select {
	case <-work.done:
	case <-ctx.Done():
		return fmt.Errorf("end the preparation of its volumes: %w", ctx.Err())
	}
	p.take(uid)
	work.free()
	return nil
}

// close frees what nobody came for. The tasks have ended.
func (p *preparations) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, work := range p.byUID {
		work.free()
	}
	clear(p.byUID)
}
