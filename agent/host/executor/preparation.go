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

// prepareTimeout bounds a preparation. A pull without progress fails much earlier by
// its own timeout; this one catches everything else.
const prepareTimeout = time.Hour

// maxPreparations bounds how many preparations run at once; the others wait.
const maxPreparations = 64

// preparation makes one instance's volumes ready. It may take as long as pulling an
// image does, so no worker waits for it: other instances are deleted and reported
// meanwhile, and a deletion of this instance ends the preparation.
type preparation struct {
	// epoch is the epoch of the claim that the preparation began under.
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

// releaseVolumes releases what a finished preparation holds.
func (p *preparation) releaseVolumes() {
	if p.release != nil {
		p.release()
	}
}

// preparations holds the preparations of this host, by the instance's UID. The engine
// never reconciles one instance twice at once, so each preparation has one caller at a
// time.
type preparations struct {
	volumes Volumes
	tasks   *tasks
	log     *slog.Logger
	// ended is called with the instance whose preparation has ended.
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

// of returns the instance's preparation, or nil.
func (p *preparations) of(uid string) *preparation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byUID[uid]
}

// progress returns the progress of the instance's preparation and the epoch it began
// under. If the preparation has failed, progress calls failed with its error, removes
// the preparation, and returns workNone.
func (p *preparations) progress(uid string, failed func(error)) (work, uint64) {
	begun := p.of(uid)
	switch {
	case begun == nil:
		return workNone, 0
	case !begun.finished():
		return workUnderWay, begun.epoch
	case begun.err != nil:
		p.removeEntry(uid)
		begun.releaseVolumes()
		failed(begun.err)
		return workNone, 0
	}
	return workReady, begun.epoch
}

// beginPreparation starts a preparation for an instance that has none.
func (p *preparations) beginPreparation(vmi *kubevirtv1.VirtualMachineInstance, epoch uint64) error {
	ref := domain.Ref(vmi)
	// The end of the task's context ends the preparation too; cancel ends only this one.
	own, cancel := context.WithTimeout(context.Background(), prepareTimeout)
	work := &preparation{epoch: epoch, cancel: cancel, done: make(chan struct{})}
	p.mu.Lock()
	p.byUID[ref.UID] = work
	p.mu.Unlock()
	err := p.tasks.startTask(func(life context.Context) {
		defer context.AfterFunc(life, cancel)()
		defer cancel()
		p.prepareVolumes(own, vmi, work)
		close(work.done)
		p.ended(ref)
	})
	if err != nil {
		cancel()
		p.removeEntry(ref.UID)
	}
	return err
}

// prepareVolumes prepares the volumes. It reads images and objects that users wrote, so a panic
// fails this one instance and not the agent.
func (p *preparations) prepareVolumes(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, work *preparation) {
	defer func() {
		if cause := recover(); cause != nil {
			p.log.Error("preparing volumes panicked", "instance", domain.Ref(vmi).String(), "panic", cause, "stack", string(debug.Stack()))
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

// removeEntry removes the instance's preparation from the map. The caller releases its volumes.
func (p *preparations) removeEntry(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byUID, uid)
}

// endPreparation ends the instance's preparation, if there is one, and waits for its end: the
// disks that it made can be removed only then.
func (p *preparations) endPreparation(ctx context.Context, uid string) error {
	work := p.of(uid)
	if work == nil {
		return nil
	}
	work.cancel()
	select {
	case <-work.done:
	case <-ctx.Done():
		return fmt.Errorf("end the preparation of its volumes: %w", ctx.Err())
	}
	p.removeEntry(uid)
	work.releaseVolumes()
	return nil
}

// close releases the volumes of the preparations that no start has taken. The tasks have ended.
func (p *preparations) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, work := range p.byUID {
		work.releaseVolumes()
	}
	clear(p.byUID)
}
