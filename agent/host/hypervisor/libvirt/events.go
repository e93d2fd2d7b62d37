package libvirt

import (
	"context"
	"fmt"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// rawBacklog is how many events may wait until their owners are looked up.
const rawBacklog = 4096

// rawEvent is an event of a domain whose owner is not known yet. The owner is in the
// domain's metadata, and another goroutine reads that, because callbacks of libvirt
// must not call libvirt.
type rawEvent struct {
	uuid  string
	event hypervisor.Event
	// owner is the owner that the domain had when the event came, if that was known.
	owner hypervisor.Owner
	known bool
	// redefined says that the metadata may have changed.
	redefined bool
	// disk is the target of the disk that the event is about; its volume is looked up
	// later.
	disk string
}

// registerEvents subscribes to all events of libvirt that become hypervisor.Events.
func (d *Driver) registerEvents(s *session) error {
	for _, register := range []func() (int, error){
		func() (int, error) { return s.conn.DomainEventLifecycleRegister(nil, d.onLifecycle) },
		func() (int, error) { return s.conn.DomainEventRebootRegister(nil, d.onReboot) },
		func() (int, error) { return s.conn.DomainEventAgentLifecycleRegister(nil, d.onAgent) },
		func() (int, error) { return s.conn.DomainEventIOErrorReasonRegister(nil, d.onIOError) },
		func() (int, error) { return s.conn.DomainEventWatchdogRegister(nil, d.onWatchdog) },
		func() (int, error) { return s.conn.DomainEventMigrationIterationRegister(nil, d.onMigration) },
		func() (int, error) { return s.conn.DomainEventJobCompletedRegister(nil, d.onJob) },
		func() (int, error) { return s.conn.DomainEventBlockJob2Register(nil, d.onBlockJob) },
		func() (int, error) { return s.conn.DomainEventDeviceRemovedRegister(nil, d.onDeviceRemoved) },
		func() (int, error) { return s.conn.DomainEventDeviceRemovalFailedRegister(nil, d.onDeviceKept) },
		func() (int, error) { return s.conn.DomainEventMetadataChangeRegister(nil, d.onMetadata) },
	} {
		id, err := register()
		if err != nil {
			return err
		}
		s.callbacks = append(s.callbacks, id)
	}
	return nil
}

// enqueue queues an event for publish. It runs in the event loop and never waits. When
// the queue is full, the event is lost, and subscribers are told to resync.
func (d *Driver) enqueue(dom *libvirt.Domain, e hypervisor.Event, redefined bool) {
	d.enqueueRaw(dom, rawEvent{event: e, redefined: redefined})
}

func (d *Driver) enqueueRaw(dom *libvirt.Domain, raw rawEvent) {
	uuid, err := dom.GetUUIDString()
	if err != nil {
		return
	}
	raw.uuid, raw.event.Time = uuid, time.Now()
	d.noteOwner(&raw)
	select {
	case d.raw <- raw:
	default:
		d.hub.Publish(hypervisor.Event{Kind: hypervisor.EventResync, Time: raw.event.Time, Detail: "events came too fast"})
	}
}

// noteOwner sets the event's owner from the cache, and removes it from the cache when
// it may have changed. The domains of two successive instances of a machine have the
// same UUID, so when the event is published the domain may already be that of the next
// instance.
func (d *Driver) noteOwner(raw *rawEvent) {
	raw.owner, raw.known = d.owners.get(raw.uuid)
	if raw.redefined || raw.event.Kind == hypervisor.EventUndefined {
		d.owners.forget(raw.uuid)
	}
}

func (d *Driver) onLifecycle(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
	switch e.Event {
	case libvirt.DOMAIN_EVENT_DEFINED:
		d.enqueue(dom, hypervisor.Event{}, true)
	case libvirt.DOMAIN_EVENT_UNDEFINED:
		d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventUndefined}, false)
	default:
		if state, reason, ok := lifecycleState(e); ok {
			d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventState, State: state, Reason: reason}, false)
		}
	}
}

func (d *Driver) onReboot(_ *libvirt.Connect, dom *libvirt.Domain) {
	d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventReboot}, false)
}

func (d *Driver) onAgent(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventAgentLifecycle) {
	connected := e.State == libvirt.CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
	d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventAgent, Connected: connected}, false)
}

func (d *Driver) onIOError(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventIOErrorReason) {
	d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventIOError, Device: strings.TrimPrefix(e.DevAlias, hypervisor.AliasPrefix), Detail: e.Reason}, false)
}

func (d *Driver) onWatchdog(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventWatchdog) {
	d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventWatchdog, Detail: watchdogAction(e.Action)}, false)
}

func (d *Driver) onMigration(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventMigrationIteration) {
	d.enqueue(dom, hypervisor.Event{Kind: hypervisor.EventMigration, Detail: fmt.Sprintf("iteration %d", e.Iteration)}, false)
}

func (d *Driver) onJob(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventJobCompleted) {
	d.enqueue(dom, hypervisor.Event{
		Kind: hypervisor.EventJob, Job: kindOf(domainJobKinds, e.Info.Operation),
		Result: jobResult(e.Info), Detail: plainText(e.Info.ErrorMessage),
	}, false)
}

func (d *Driver) onBlockJob(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventBlockJob) {
	event := hypervisor.Event{Kind: hypervisor.EventJob, Job: kindOf(blockJobKinds, e.Type), Result: blockJobResults[e.Status]}
	d.enqueueRaw(dom, rawEvent{event: event, disk: e.Disk})
}

func (d *Driver) onDeviceRemoved(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventDeviceRemoved) {
	d.onDevice(dom, hypervisor.EventDeviceRemoved, e.DevAlias)
}

func (d *Driver) onDeviceKept(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventDeviceRemovalFailed) {
	d.onDevice(dom, hypervisor.EventDeviceKept, e.DevAlias)
}

// onDevice queues an event of a device, if the device has a name in the instance.
func (d *Driver) onDevice(dom *libvirt.Domain, kind hypervisor.EventKind, alias string) {
	if name, ok := strings.CutPrefix(alias, hypervisor.AliasPrefix); ok {
		d.enqueue(dom, hypervisor.Event{Kind: kind, Device: name}, false)
	}
}

// onMetadata queues an event that says that the owner may have changed.
func (d *Driver) onMetadata(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventMetadataChange) {
	if e.NSURI == hypervisor.MetadataURI {
		d.enqueue(dom, hypervisor.Event{}, true)
	}
}

// publish finds each event's owner and passes the event to the subscribers.
func (d *Driver) publish(ctx context.Context) {
	for {
		select {
		case raw := <-d.raw:
			d.publishOne(ctx, raw)
		case <-ctx.Done():
			return
		}
	}
}

func (d *Driver) publishOne(ctx context.Context, raw rawEvent) {
	owner, ok := raw.owner, raw.known
	if !ok || raw.redefined {
		owner, ok = d.ownerByUUID(ctx, raw.uuid)
	}
	if raw.event.State == hypervisor.StateShutoff {
		d.names.forget(raw.uuid)
	}
	if !ok || raw.event.Kind == "" {
		return
	}
	raw.event.Ref = owner.Ref
	if raw.disk != "" {
		raw.event.Device = d.volumeOf(ctx, owner.Ref, raw.disk)
	}
	d.hub.Publish(raw.event)
}

// ownerByUUID reads the metadata of a domain that has had an event.
func (d *Driver) ownerByUUID(ctx context.Context, uuid string) (hypervisor.Owner, bool) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ConnectTimeout)
	defer cancel()
	owner, err := call(ctx, d, d.queries, "read owner of "+uuid, nil, func(conn *libvirt.Connect) (hypervisor.Owner, error) {
		dom, err := conn.LookupDomainByUUIDString(uuid)
		if err != nil {
			return hypervisor.Owner{}, err
		}
		defer dom.Free()
		return d.ownerOf(dom)
	})
	return owner, err == nil
}

// volumeOf returns the name of the volume whose disk has the target, empty when there
// is none.
func (d *Driver) volumeOf(ctx context.Context, ref hypervisor.Ref, target string) string {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ConnectTimeout)
	defer cancel()
	text, err := d.LiveDefinition(ctx, ref)
	if err != nil {
		return ""
	}
	devices, err := parseDeviceList(text)
	if err != nil {
		return ""
	}
	for _, v := range devices {
		if v.XMLName.Local == "disk" && v.Target.Dev == target {
			return v.name()
		}
	}
	return ""
}

// lifecycleState translates an event of libvirt to the state that the domain is in now.
// ok is false when the event changes nothing that is reported.
func lifecycleState(e *libvirt.DomainEventLifecycle) (state hypervisor.State, reason hypervisor.Reason, ok bool) {
	switch e.Event {
	case libvirt.DOMAIN_EVENT_STARTED:
		return hypervisor.StateRunning, pick(startedReasons, libvirt.DomainEventStartedDetailType(e.Detail)), true
	case libvirt.DOMAIN_EVENT_SUSPENDED:
		return hypervisor.StatePaused, pick(suspendedReasons, libvirt.DomainEventSuspendedDetailType(e.Detail)), true
	case libvirt.DOMAIN_EVENT_RESUMED:
		return hypervisor.StateRunning, pick(resumedReasons, libvirt.DomainEventResumedDetailType(e.Detail)), true
	case libvirt.DOMAIN_EVENT_STOPPED:
		return hypervisor.StateShutoff, pick(stoppedReasons, libvirt.DomainEventStoppedDetailType(e.Detail)), true
	case libvirt.DOMAIN_EVENT_SHUTDOWN:
		return hypervisor.StateShuttingDown, hypervisor.ReasonShutdown, true
	case libvirt.DOMAIN_EVENT_PMSUSPENDED:
		return hypervisor.StateSuspended, hypervisor.ReasonUnknown, true
	case libvirt.DOMAIN_EVENT_CRASHED:
		return hypervisor.StateCrashed, hypervisor.ReasonCrashed, true
	}
	return "", "", false
}
