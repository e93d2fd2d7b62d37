package objects

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodePoolsUsable is the type of a Node's condition that tells whether the host can use all
// pools of its configuration.
const NodePoolsUsable corev1.NodeConditionType = "PoolsUsable"

// NodeGuestsConfined is the type of a Node's condition that tells whether all that keeps
// guests apart from each other and from the host is there.
const NodeGuestsConfined corev1.NodeConditionType = "GuestsConfined"

// NodeHypervisorReady is the type of a Node's condition that tells whether the host's
// hypervisor answers, and which versions of it do.
const NodeHypervisorReady corev1.NodeConditionType = "HypervisorReady"

// NodeRoleWitness is the label, and the key of the taint, of the Node of a host that votes
// and runs no guests.
const NodeRoleWitness = "node-role.kubernetes.io/witness"

// IsWitness reports whether a Node is that of a host that votes and runs no guests.
func IsWitness(n *corev1.Node) bool {
	_, labelled := n.Labels[NodeRoleWitness]
	return labelled
}

// NodeCondition returns a condition of a Node; the zero value if the Node does not have
// it.
func NodeCondition(n *corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// SetNodeCondition sets a condition of a Node. Its times change only when its status
// changes, because a heartbeat would need a write.
func SetNodeCondition(n *corev1.Node, c corev1.NodeCondition, now time.Time) {
	stamp := metav1.NewTime(now.Truncate(time.Second))
	for i := range n.Status.Conditions {
		have := &n.Status.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		c.LastHeartbeatTime, c.LastTransitionTime = have.LastHeartbeatTime, have.LastTransitionTime
		if have.Status != c.Status {
			c.LastHeartbeatTime, c.LastTransitionTime = stamp, stamp
		}
		*have = c
		return
	}
	c.LastHeartbeatTime, c.LastTransitionTime = stamp, stamp
	n.Status.Conditions = append(n.Status.Conditions, c)
}
