package subresources

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// power starts, stops and restarts virtual machines. What a request does depends on the
// run strategy of the machine:
//
//	            Halted            Manual   RerunOnFailure     Always   Once
//	start       Always            request  request            refused  refused
//	stop        shorter grace     request  request            Halted   Halted
//	restart     refused           request  request            request  refused
//
// "request" adds a state change request to the machine's status. "Always" and "Halted"
// set the run strategy. "shorter grace" is a request that is only accepted with a
// grace period shorter than the present one, because the machine is already stopping.
type power struct{ objects Objects }

// state is a virtual machine and, if it has one, its instance.
type state struct {
	vm       *kubevirtv1.VirtualMachine
	vmi      *kubevirtv1.VirtualMachineInstance // nil: none
	strategy kubevirtv1.VirtualMachineRunStrategy
}

func (p power) readState(ctx context.Context, namespace, name string) (*state, error) {
	vm, err := p.objects.VirtualMachine(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	strategy, err := vm.RunStrategy()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	vmi, err := p.objects.Instance(ctx, namespace, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	if err != nil {
		vmi = nil
	}
	return &state{vm: vm, vmi: vmi, strategy: strategy}, nil
}

// isRunning reports whether there is an instance that has not ended.
func (s *state) isRunning() bool { return s.vmi != nil && !s.vmi.IsFinal() }

func (s *state) refusal(format string, args ...any) error {
	return conflictError(vmResource, s.vm.Name, fmt.Sprintf(format, args...))
}

func (p power) startVM(ctx context.Context, namespace, name string, opts *kubevirtv1.StartOptions) error {
	s, err := p.readState(ctx, namespace, name)
	if err != nil {
		return err
	}
	if s.isRunning() && s.vmi.Status.Phase != kubevirtv1.Unknown && s.vmi.Status.Phase != kubevirtv1.VmPhaseUnset {
		return s.refusal("VM is already running")
	}
	request := kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest}
	if opts.Paused {
		request.Data = map[string]string{kubevirtv1.StartRequestDataPausedKey: kubevirtv1.StartRequestDataPausedTrue}
	}
	switch s.strategy {
	case kubevirtv1.RunStrategyHalted:
		if opts.Paused {
			return p.requestChanges(ctx, s, opts.DryRun, request)
		}
		return p.setRunning(ctx, s, true, opts.DryRun)
	case kubevirtv1.RunStrategyManual:
		if s.vmi != nil && s.vmi.IsFinal() {
			return p.requestChanges(ctx, s, opts.DryRun, stopRequestFor(s.vmi), request)
		}
		return p.requestChanges(ctx, s, opts.DryRun, request)
	case kubevirtv1.RunStrategyRerunOnFailure:
		switch {
		case s.vmi != nil && s.vmi.Status.Phase == kubevirtv1.Failed:
			return s.refusal("%v does not support starting VM from failed state", s.strategy)
		case s.vmi != nil && s.vmi.Status.Phase == kubevirtv1.Succeeded:
			return p.requestChanges(ctx, s, opts.DryRun, stopRequestFor(s.vmi), request)
		}
		return p.requestChanges(ctx, s, opts.DryRun, request)
	}
	return s.refusal("%v does not support manual start requests", s.strategy)
}

func (p power) stopVM(ctx context.Context, namespace, name string, opts *kubevirtv1.StopOptions) error {
	if g := opts.GracePeriod; g != nil && *g < 0 {
		return apierrors.NewBadRequest("gracePeriod has to be greater or equal to 0")
	}
	s, err := p.readState(ctx, namespace, name)
	if err != nil {
		return err
	}
	byStrategy := s.strategy == kubevirtv1.RunStrategyAlways || s.strategy == kubevirtv1.RunStrategyOnce
	if !byStrategy && !s.isRunning() {
		return s.refusal(vmNotRunning)
	}
	if s.strategy == kubevirtv1.RunStrategyHalted {
		// The instance is already stopping; the request can only shorten its grace
		// period.
		grace := s.vmi.Spec.TerminationGracePeriodSeconds
		if opts.GracePeriod == nil || grace != nil && *opts.GracePeriod >= *grace {
			return s.refusal("%v only supports manual stop requests with a shorter graceperiod", s.strategy)
		}
	}
	if byStrategy {
		if err := p.dropStart(ctx, s, opts.DryRun); err != nil {
			return err
		}
		err = p.setRunning(ctx, s, false, opts.DryRun)
	} else {
		err = p.requestChanges(ctx, s, opts.DryRun, stopRequestFor(s.vmi))
	}
	if err != nil || !s.isRunning() || opts.GracePeriod == nil {
		return err
	}
	return p.setGrace(ctx, s.vmi, *opts.GracePeriod, opts.DryRun)
}

func (p power) restartVM(ctx context.Context, namespace, name string, opts *kubevirtv1.RestartOptions) error {
	if g := opts.GracePeriodSeconds; g != nil && *g > 0 {
		return apierrors.NewBadRequest("For force restart, only gracePeriod=0 is supported for now")
	} else if g != nil && *g < 0 {
		return apierrors.NewBadRequest("gracePeriod has to be greater or equal to 0")
	}
	s, err := p.readState(ctx, namespace, name)
	if err != nil {
		return err
	}
	if s.strategy == kubevirtv1.RunStrategyHalted || s.strategy == kubevirtv1.RunStrategyOnce {
		return s.refusal("RunStategy %v does not support manual restart requests", s.strategy)
	}
	if s.vmi == nil {
		return s.refusal("VM is not running: %v", kubevirtv1.RunStrategyHalted)
	}
	err = p.requestChanges(ctx, s, opts.DryRun, stopRequestFor(s.vmi), kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest})
	if err != nil || opts.GracePeriodSeconds == nil {
		return err
	}
	return p.setGrace(ctx, s.vmi, 1, opts.DryRun)
}

func (p power) migrateVM(ctx context.Context, namespace, name string, opts *kubevirtv1.MigrateOptions) error {
	s, err := p.readState(ctx, namespace, name)
	if err != nil {
		return err
	}
	if s.vmi == nil {
		return apierrors.NewNotFound(vmiResource, name)
	}
	if s.vmi.Status.Phase != kubevirtv1.Running {
		return s.refusal(vmNotRunning)
	}
	m := &kubevirtv1.VirtualMachineInstanceMigration{}
	m.GenerateName = "kubevirt-migrate-vm-"
	m.Namespace = namespace
	m.Spec.VMIName = name
	m.Spec.AddedNodeSelector = opts.AddedNodeSelector
	return p.objects.CreateMigration(ctx, m, opts.DryRun)
}

// stopRequestFor returns a request to stop this instance, identified by its UID.
func stopRequestFor(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachineStateChangeRequest {
	uid := vmi.UID
	return kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StopRequest, UID: &uid}
}

// requestChanges asks the virtual machine's controller for state changes. A single stop
// request replaces pending requests; any other request is refused while one is pending.
func (p power) requestChanges(ctx context.Context, s *state, dryRun []string, changes ...kubevirtv1.VirtualMachineStateChangeRequest) error {
	return p.objects.ChangeVirtualMachineStatus(ctx, s.vm.Namespace, s.vm.Name, dryRun, func(vm *kubevirtv1.VirtualMachine) error {
		if err := s.checkUnchanged(vm); err != nil {
			return err
		}
		pending := len(vm.Status.StateChangeRequests) > 0
		if pending && (len(changes) != 1 || changes[0].Action != kubevirtv1.StopRequest) {
			return s.refusal("unable to complete request: stop/start already underway")
		}
		vm.Status.StateChangeRequests = changes
		vm.Status.StartFailure = nil
		return nil
	})
}

// dropStart removes a pending start request, such as that of a restart: a machine that
// is to be stopped must not be started by an earlier request.
func (p power) dropStart(ctx context.Context, s *state, dryRun []string) error {
	asked := func(r kubevirtv1.VirtualMachineStateChangeRequest) bool { return r.Action == kubevirtv1.StartRequest }
	if !slices.ContainsFunc(s.vm.Status.StateChangeRequests, asked) {
		return nil
	}
	return p.objects.ChangeVirtualMachineStatus(ctx, s.vm.Namespace, s.vm.Name, dryRun, func(vm *kubevirtv1.VirtualMachine) error {
		vm.Status.StateChangeRequests = slices.DeleteFunc(vm.Status.StateChangeRequests, asked)
		return s.checkUnchanged(vm)
	})
}

// checkUnchanged returns an error if the machine, or its run strategy, is no longer the
// one for which the decision was made. Its status may have changed, because controllers
// write it all the time.
func (s *state) checkUnchanged(vm *kubevirtv1.VirtualMachine) error {
	strategy, err := vm.RunStrategy()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if vm.UID != s.vm.UID || strategy != s.strategy {
		return s.refusal("the VM or its run strategy has been changed meanwhile; please try again")
	}
	return nil
}

// setRunning changes the run strategy, or the older field spec.running if the machine
// uses that.
func (p power) setRunning(ctx context.Context, s *state, running bool, dryRun []string) error {
	strategy := kubevirtv1.RunStrategyHalted
	if running {
		strategy = kubevirtv1.RunStrategyAlways
	}
	return p.objects.ChangeVirtualMachine(ctx, s.vm.Namespace, s.vm.Name, dryRun, func(vm *kubevirtv1.VirtualMachine) error {
		if err := s.checkUnchanged(vm); err != nil {
			return err
		}
		if vm.Spec.RunStrategy != nil {
			vm.Spec.RunStrategy = &strategy
		} else {
			vm.Spec.Running = &running
		}
		return nil
	})
}

// setGrace shortens the grace period of an instance. It must only be called after the
// stop was accepted: a refused request must not leave the instance with a shorter grace
// period. It does nothing if the instance no longer exists.
func (p power) setGrace(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, seconds int64, dryRun []string) error {
	err := p.objects.ChangeInstance(ctx, vmi.Namespace, vmi.Name, dryRun, func(now *kubevirtv1.VirtualMachineInstance) error {
		if now.UID == vmi.UID {
			now.Spec.TerminationGracePeriodSeconds = &seconds
		}
		return nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
