package meshv1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"
)

// DeepCopyInto copies in into out.
func (in *Operation) DeepCopyInto(out *Operation) {
	*out = *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	in.Status.DeepCopyInto(&out.Status)
}

// DeepCopy returns a copy that shares nothing with in.
func (in *Operation) DeepCopy() *Operation {
	if in == nil {
		return nil
	}
	out := new(Operation)
	in.DeepCopyInto(out)
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *Operation) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	return in.DeepCopy()
}

// DeepCopyInto copies in into out.
func (in *OperationStatus) DeepCopyInto(out *OperationStatus) {
	*out = *in
	out.Owner = copyOf(in.Owner)
	out.Started, out.Ended = in.Started.DeepCopy(), in.Ended.DeepCopy()
	if in.Steps != nil {
		out.Steps = make([]OperationStep, len(in.Steps))
		for i := range in.Steps {
			out.Steps[i] = in.Steps[i]
			out.Steps[i].Started, out.Steps[i].Ended = in.Steps[i].Started.DeepCopy(), in.Steps[i].Ended.DeepCopy()
		}
	}
}

// DeepCopyInto copies in into out.
func (in *OperationList) DeepCopyInto(out *OperationList) {
	*out = *in
	in.ListMeta.DeepCopyInto(&out.ListMeta)
	if in.Items != nil {
		out.Items = make([]Operation, len(in.Items))
		for i := range in.Items {
			in.Items[i].DeepCopyInto(&out.Items[i])
		}
	}
}

// DeepCopy returns a copy that shares nothing with in.
func (in *OperationList) DeepCopy() *OperationList {
	if in == nil {
		return nil
	}
	out := new(OperationList)
	in.DeepCopyInto(out)
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *OperationList) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	return in.DeepCopy()
}
