package subresources

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// power starts, stops and restarts virtual machines, by what their run strategy
// makes of it:
//
//	            Halted            Manual   RerunOnFailure     Always   Once
//	start       Always            request  request            refused  refused
//	stop        shorter grace     request  request            Halted   Halted
//	restart     refused           request  request            request  refused
type power struct{ objects Objects }

// state is a virtual machine and, if it has one, its instance.
type state struct {
	vm       *kubevirtv1.VirtualMachine
	vmi      *kubevirtv1.VirtualMachineInstance // nil: none
	strategy kubevirtv1.VirtualMachineRunStrategy
}

func (p power) read(ctx context.Context, namespace, name string) (*state, error) {
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

// running says whether there is an instance that has not ended.
func (s *state) running() bool { return s.vmi != nil && !s.vmi.IsFinal() }

func (s *state) refuse(format string, args ...any) error {
	return conflict(vmResource, s.vm.Name, fmt.Sprintf(format, args...))
}

func (p power) start(ctx context.Context, namespace, name string, opts *kubevirtv1.StartOptions) error {
	s, err := p.read(ctx, namespace, name)
	if err != nil {
		return err
	}
	if s.running() && s.vmi.Status.Phase != kubevirtv1.Unknown && s.vmi.Status.Phase != kubevirtv1.VmPhaseUnset {
		return s.refuse("VM is already running")
	}
	request := kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest}
	if opts.Paused {
		request.Data = map[string]string{kubevirtv1.StartRequestDataPausedKey: kubevirtv1.StartRequestDataPausedTrue}
	}
	switch s.strategy {
	case kubevirtv1.RunStrategyHalted:
		if opts.Paused {
			return p.request(ctx, s, opts.DryRun, request)
		}
		return p.setRunning(ctx, s, true, opts.DryRun)
	case kubevirtv1.RunStrategyManual:
		if s.vmi != nil && s.vmi.IsFinal() {
			return p.request(ctx, s, opts.DryRun, stopOf(s.vmi), request)
		}
		return p.request(ctx, s, opts.DryRun, request)
	case kubevirtv1.RunStrategyRerunOnFailure:
		switch {
		case s.vmi != nil && s.vmi.Status.Phase == kubevirtv1.Failed:
			return s.refuse("%v does not support starting VM from failed state", s.strategy)
		case s.vmi != nil && s.vmi.Status.Phase == kubevirtv1.Succeeded:
			return p.request(ctx, s, opts.DryRun, stopOf(s.vmi), request)
		}
		return p.request(ctx, s, opts.DryRun, request)
	}
	return s.refuse("%v does not support manual start requests", s.strategy)
}

func (p power) stop(ctx context.Context, namespace, name string, opts *kubevirtv1.StopOptions) error {
	s, err := p.read(ctx, namespace, name)
	if err != nil {
		return err
	}
	byStrategy := s.strategy == kubevirtv1.RunStrategyAlways || s.strategy == kubevirtv1.RunStrategyOnce
	if !byStrategy && !s.running() {
		return s.refuse(vmNotRunning)
	}
	if s.strategy == kubevirtv1.RunStrategyHalted {
		// It is stopping already: all one can do is to hurry it.
		grace := s.vmi.Spec.TerminationGracePeriodSeconds
		if opts.GracePeriod == nil || grace != nil && *opts.GracePeriod >= *grace {
			return s.refuse("%v only supports manual stop requests with a shorter graceperiod", s.strategy)
		}
	}
	if byStrategy {
		if err := p.dropStart(ctx, s, opts.DryRun); err != nil {
			return err
		}
		err = p.setRunning(ctx, s, false, opts.DryRun)
	} else {
		err = p.request(ctx, s, opts.DryRun, stopOf(s.vmi))
	}
	if err != nil || !s.running() || opts.GracePeriod == nil {
		return err
	}
	return p.setGrace(ctx, s.vmi, *opts.GracePeriod, opts.DryRun)
}

func (p power) restart(ctx context.Context, namespace, name string, opts *kubevirtv1.RestartOptions) error {
	if g := opts.GracePeriodSeconds; g != nil && *g > 0 {
		return apierrors.NewBadRequest("For force restart, only gracePeriod=0 is supported for now")
	} else if g != nil && *g < 0 {
		return apierrors.NewBadRequest("gracePeriod has to be greater or equal to 0")
	}
	s, err := p.read(ctx, namespace, name)
	if err != nil {
		return err
	}
	if s.strategy == kubevirtv1.RunStrategyHalted || s.strategy == kubevirtv1.RunStrategyOnce {
		return s.refuse("RunStategy %v does not support manual restart requests", s.strategy)
	}
	if s.vmi == nil {
		return s.refuse("VM is not running: %v", kubevirtv1.RunStrategyHalted)
	}
	err = p.request(ctx, s, opts.DryRun, stopOf(s.vmi), kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest})
	if err != nil || opts.GracePeriodSeconds == nil {
		return err
	}
	return p.setGrace(ctx, s.vmi, 1, opts.DryRun)
}

func (p power) migrate(ctx context.Context, namespace, name string, opts *kubevirtv1.MigrateOptions) error {
	s, err := p.read(ctx, namespace, name)
	if err != nil {
		return err
	}
	if s.vmi == nil {
		return apierrors.NewNotFound(vmiResource, name)
	}
	if s.vmi.Status.Phase != kubevirtv1.Running {
		return s.refuse(vmNotRunning)
	}
	m := &kubevirtv1.VirtualMachineInstanceMigration{}
	m.GenerateName = "kubevirt-migrate-vm-"
	m.Namespace = namespace
	m.Spec.VMIName = name
	m.Spec.AddedNodeSelector = opts.AddedNodeSelector
	return p.objects.CreateMigration(ctx, m, opts.DryRun)
}

// stopOf asks for the end of this very instance.
func stopOf(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachineStateChangeRequest {
	uid := vmi.UID
	return kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StopRequest, UID: &uid}
}

// request asks the virtual machine's controller for changes. A lone stop replaces
// what was asked for before; anything else has to wait for it.
func (p power) request(ctx context.Context, s *state, dryRun []string, changes ...kubevirtv1.VirtualMachineStateChangeRequest) error {
	return p.objects.ChangeVirtualMachineStatus(ctx, s.vm.Namespace, s.vm.Name, dryRun, func(vm *kubevirtv1.VirtualMachine) error {
		if err := s.holds(vm); err != nil {
			return err
		}
		pending := len(vm.Status.StateChangeRequests) > 0
		if pending && (len(changes) != 1 || changes[0].Action != kubevirtv1.StopRequest) {
			return s.refuse("unable to complete request: stop/start already underway")
		}
		vm.Status.StateChangeRequests = changes
		vm.Status.StartFailure = nil
		return nil
	})
}

// dropStart takes back a start that is still to come, such as a restart's: a machine
// that is to be stopped must not be started by what was asked before.
func (p power) dropStart(ctx context.Context, s *state, dryRun []string) error {
	asked := func(r kubevirtv1.VirtualMachineStateChangeRequest) bool { return r.Action == kubevirtv1.StartRequest }
	if !slices.ContainsFunc(s.vm.Status.StateChangeRequests, asked) {
		return nil
	}
	return p.objects.ChangeVirtualMachineStatus(ctx, s.vm.Namespace, s.vm.Name, dryRun, func(vm *kubevirtv1.VirtualMachine) error {
		vm.Status.StateChangeRequests = slices.DeleteFunc(vm.Status.StateChangeRequests, asked)
		return s.holds(vm)
	})
}

// holds refuses a machine that is not what was decided about. Its status may have
// changed: controllers write it all the time.
func (s *state) holds(vm *kubevirtv1.VirtualMachine) error {
	strategy, err := vm.RunStrategy()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if vm.UID != s.vm.UID || strategy != s.strategy {
		return s.refuse("the VM or its run strategy has been changed meanwhile; please try again")
	}
	return nil
}

// setRunning changes the run strategy, or the older field if that is in use.
func (p power) setRunning(ctx context.Context, s *state, running bool, dryRun []string) error {
	strategy := kubevirtv1.RunStrategyHalted
	if running {
		strategy = kubevirtv1.RunStrategyAlways
	}
	return p.objects.ChangeVirtualMachine(ctx, s.vm.Namespace, s.vm.Name, dryRun, func(vm *kubevirtv1.VirtualMachine) error {
		if err := s.holds(vm); err != nil {
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

// setGrace shortens the end of an instance whose end has been asked for already:
// a request that is refused must not leave it with less time. An instance that is
// gone by then needs none.
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
