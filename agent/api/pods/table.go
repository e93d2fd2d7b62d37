package pods

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// columns are those of kubectl get pods.
var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "The name of the pod"},
	{Name: "Ready", Type: "string", Description: "How many of the containers are ready"},
	{Name: "Status", Type: "string", Description: "What the pod does"},
	{Name: "Restarts", Type: "string", Description: "How often containers were restarted: a guest gets another pod instead"},
	{Name: "Age", Type: "string", Description: "How long ago the instance was created"},
	{Name: "IP", Type: "string", Priority: 1, Description: "The guest's address on its first network"},
	{Name: "Node", Type: "string", Priority: 1, Description: "The host that runs the guest"},
	{Name: "Nominated Node", Type: "string", Priority: 1, Description: "Unused"},
	{Name: "Readiness Gates", Type: "string", Priority: 1, Description: "Unused"},
}

// table renders Pods as the rows that kubectl get prints.
type table struct{}

// ConvertToTable implements rest.TableConvertor.
func (table) ConvertToTable(_ context.Context, obj, opts runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := opts.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = columns
	}
	if list, err := meta.ListAccessor(obj); err == nil {
		out.ResourceVersion, out.Continue, out.RemainingItemCount = list.GetResourceVersion(), list.GetContinue(), list.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(obj); err == nil {
		out.ResourceVersion = m.GetResourceVersion()
	}
	var err error
	out.Rows, err = metatable.MetaToTableRow(obj, row)
	return out, err
}

func row(obj runtime.Object, m metav1.Object, name, _ string) ([]any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("not a pod: %T", obj)
	}
	ready := 0
	for _, c := range pod.Status.ContainerStatuses {
		if c.Ready {
			ready++
		}
	}
	const none = "<none>"
	ip, node := none, none
	if pod.Status.PodIP != "" {
		ip = pod.Status.PodIP
	}
	if pod.Spec.NodeName != "" {
		node = pod.Spec.NodeName
	}
	age := duration.HumanDuration(time.Since(m.GetCreationTimestamp().Time))
	return []any{name, fmt.Sprintf("%d/%d", ready, len(pod.Spec.Containers)), word(pod), "0", age, ip, node, none, none}, nil
}

// word says in one word what a Pod does.
func word(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	var words []string
	for _, c := range pod.Status.ContainerStatuses {
		switch {
		case c.State.Terminated != nil:
			words = append(words, c.State.Terminated.Reason)
		case c.State.Waiting != nil:
			words = append(words, c.State.Waiting.Reason)
		}
	}
	if len(words) > 0 {
		return strings.TrimSpace(words[0])
	}
	return string(pod.Status.Phase)
}
