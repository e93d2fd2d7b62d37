package pods

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// phaseOf returns the phase of the Pod of an instance.
func phaseOf(vmi *kubevirtv1.VirtualMachineInstance) corev1.PodPhase {
	switch vmi.Status.Phase {
	case kubevirtv1.Running:
		return corev1.PodRunning
	case kubevirtv1.Succeeded:
		return corev1.PodSucceeded
	case kubevirtv1.Failed:
		return corev1.PodFailed
	case kubevirtv1.Unknown:
		return corev1.PodUnknown
	}
	return corev1.PodPending
}

func statusOf(vmi *kubevirtv1.VirtualMachineInstance) corev1.PodStatus {
	status := corev1.PodStatus{Phase: phaseOf(vmi), Conditions: conditionsOf(vmi), Reason: vmi.Status.Reason}
	if vmi.Status.QOSClass != nil {
		status.QOSClass = *vmi.Status.QOSClass
	}
	if vmi.Status.NodeName != "" {
		status.StartTime = vmi.CreationTimestamp.DeepCopy()
	}
	if len(vmi.Status.Interfaces) > 0 && status.Phase == corev1.PodRunning {
		first := vmi.Status.Interfaces[0]
		addresses := first.IPs
		if len(addresses) == 0 && first.IP != "" {
			addresses = []string{first.IP}
		}
		for _, ip := range addresses {
			status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
		}
		if len(addresses) > 0 {
			status.PodIP = addresses[0]
		}
	}
	names := []string{compute}
	if logsConsole(vmi) {
		names = append(names, consoleLog)
	}
	for _, name := range names {
		status.ContainerStatuses = append(status.ContainerStatuses, containerOf(vmi, name, status.Phase))
	}
	return status
}

// containerOf returns the status of a container. All of an instance begin and end with the guest;
// only compute waits for the guest to be ready.
func containerOf(vmi *kubevirtv1.VirtualMachineInstance, name string, phase corev1.PodPhase) corev1.ContainerStatus {
	started := phase == corev1.PodRunning
	status := corev1.ContainerStatus{Name: name, Image: "virt-launcher", Started: &started}
	began, ended := phaseTime(vmi, kubevirtv1.Running), phaseTime(vmi, kubevirtv1.Succeeded)
	switch phase {
	case corev1.PodRunning:
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: began}
		status.Ready = name != compute || isTrue(vmi, kubevirtv1.VirtualMachineInstanceReady)
	case corev1.PodSucceeded:
		status.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: began, FinishedAt: ended}
	case corev1.PodFailed:
		ended = phaseTime(vmi, kubevirtv1.Failed)
		status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", StartedAt: began, FinishedAt: ended}
	default:
		if vmi.Status.NodeName != "" {
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
		}
	}
	return status
}

func conditionsOf(vmi *kubevirtv1.VirtualMachineInstance) []corev1.PodCondition {
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
	if c := conditionOf(vmi, kubevirtv1.VirtualMachineInstanceReady); c != nil {
		ready.Status, ready.Reason, ready.Message, ready.LastTransitionTime = c.Status, c.Reason, c.Message, c.LastTransitionTime
	}
	containers := ready
	containers.Type = corev1.ContainersReady
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse}
	if vmi.Status.NodeName != "" {
		scheduled.Status, scheduled.LastTransitionTime = corev1.ConditionTrue, phaseTime(vmi, kubevirtv1.Scheduled)
	} else if c := conditionOf(vmi, kubevirtv1.VirtualMachineInstanceConditionType(corev1.PodScheduled)); c != nil {
		scheduled.Reason, scheduled.Message, scheduled.LastTransitionTime = c.Reason, c.Message, c.LastTransitionTime
	}
	return []corev1.PodCondition{
		{Type: corev1.PodInitialized, Status: scheduled.Status, LastTransitionTime: scheduled.LastTransitionTime}, ready, containers, scheduled,
	}
}

func conditionOf(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType) *kubevirtv1.VirtualMachineInstanceCondition {
	for i := range vmi.Status.Conditions {
		if vmi.Status.Conditions[i].Type == kind {
			return &vmi.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType) bool {
	c := conditionOf(vmi, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

// phaseTime returns when the instance entered a phase last; zero if it has not.
func phaseTime(vmi *kubevirtv1.VirtualMachineInstance, phase kubevirtv1.VirtualMachineInstancePhase) metav1.Time {
	var at metav1.Time
	for _, t := range vmi.Status.PhaseTransitionTimestamps {
		if t.Phase == phase {
			at = t.PhaseTransitionTimestamp
		}
	}
	return at
}
