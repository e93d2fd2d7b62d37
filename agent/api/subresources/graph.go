package subresources

import (
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// dependencyLabel says on a node of a graph what kind of thing the machine needs there.
const dependencyLabel = "kubevirt.io/dependency-type"

// The values of dependencyLabel.
const (
	storageNode = "storage"
	networkNode = "network"
	computeNode = "compute"
	configNode  = "config"
)

// graphs serves what machines refer to, so that a backup knows what belongs to a machine. A
// machine has no pod here, and so its graph has none.
type graphs struct{ objects Objects }

// serveVM answers with the graph of a virtual machine.
func (g graphs) serveVM(w http.ResponseWriter, r *http.Request, about target) error {
	vm, err := g.objects.VirtualMachine(r.Context(), about.namespace, about.name)
	if err != nil {
		return err
	}
	root := node(vmKind.gvk.GroupKind(), vm.Name, vm.Namespace, computeNode)
	if vm.Status.Created {
		root.Children = append(root.Children, node(vmiKind.gvk.GroupKind(), vm.Name, vm.Namespace, computeNode))
	}
	if t := vm.Spec.Instancetype; t != nil {
		root.Children = append(root.Children, matcherNodes(t, "Instancetype", vm.Namespace, vm.Status.InstancetypeRef)...)
	}
	if p := vm.Spec.Preference; p != nil {
		root.Children = append(root.Children, matcherNodes(p, "Preference", vm.Namespace, vm.Status.PreferenceRef)...)
	}
	if vm.Spec.Template != nil {
		root.Children = append(root.Children, specNodes(&vm.Spec.Template.Spec, vm.Namespace)...)
	}
	return answerGraph(w, r, root)
}

// serveInstance answers with the graph of an instance.
func (g graphs) serveInstance(w http.ResponseWriter, r *http.Request, about target) error {
	vmi, err := g.objects.Instance(r.Context(), about.namespace, about.name)
	if err != nil {
		return err
	}
	root := node(vmiKind.gvk.GroupKind(), vmi.Name, vmi.Namespace, computeNode)
	root.Children = specNodes(&vmi.Spec, vmi.Namespace)
	return answerGraph(w, r, root)
}

// answerGraph leaves out what the request, in its body, does not ask for.
func answerGraph(w http.ResponseWriter, r *http.Request, root kubevirtv1.ObjectGraphNode) error {
	var options kubevirtv1.ObjectGraphOptions
	if err := readOptions(w, r, &options); err != nil {
		return err
	}
	selector := labels.Everything()
	if options.LabelSelector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(options.LabelSelector); err != nil {
			return apierrors.NewBadRequest("labelSelector: " + err.Error())
		}
	}
	root.Children = filterNodes(root.Children, selector, options.IncludeOptionalNodes == nil || *options.IncludeOptionalNodes)
	return writeAnswer(w, root)
}

func filterNodes(nodes []kubevirtv1.ObjectGraphNode, selector labels.Selector, optional bool) []kubevirtv1.ObjectGraphNode {
	var kept []kubevirtv1.ObjectGraphNode
	for _, n := range nodes {
		if (n.Optional == nil || optional) && selector.Matches(labels.Set(n.Labels)) {
			n.Children = filterNodes(n.Children, selector, optional)
			kept = append(kept, n)
		}
	}
	return kept
}

func node(kind schema.GroupKind, name, namespace, dependency string) kubevirtv1.ObjectGraphNode {
	return kubevirtv1.ObjectGraphNode{
		ObjectReference: corev1.TypedObjectReference{APIGroup: &kind.Group, Kind: kind.Kind, Name: name, Namespace: &namespace},
		Labels:          map[string]string{dependencyLabel: dependency},
	}
}

func optionalNode(kind schema.GroupKind, name, namespace, dependency string) kubevirtv1.ObjectGraphNode {
	n, optional := node(kind, name, namespace, dependency), true
	n.Optional = &optional
	return n
}

// matcherNodes returns what a machine's instance type or preference refers to: the object,
// and the copy of it that the machine keeps.
func matcherNodes(m kubevirtv1.Matcher, what, namespace string, ref *kubevirtv1.InstancetypeStatusRef) []kubevirtv1.ObjectGraphNode {
	kind := schema.GroupKind{Group: instancetypeGroup, Kind: "VirtualMachine" + what}
	if !strings.EqualFold(m.GetKind(), kind.Kind) {
		kind.Kind, namespace = "VirtualMachineCluster"+what, ""
	}
	nodes := []kubevirtv1.ObjectGraphNode{optionalNode(kind, m.GetName(), namespace, configNode)}
	revision := m.GetRevisionName()
	if ref != nil && ref.ControllerRevisionRef != nil {
		revision = ref.ControllerRevisionRef.Name
	}
	if revision != "" {
		nodes = append(nodes, node(schema.GroupKind{Group: "apps", Kind: "ControllerRevision"}, revision, namespace, configNode))
	}
	return nodes
}

// specNodes returns what a specification refers to: credentials, volumes and networks.
func specNodes(spec *kubevirtv1.VirtualMachineInstanceSpec, namespace string) []kubevirtv1.ObjectGraphNode {
	var nodes []kubevirtv1.ObjectGraphNode
	secret := func(name string) {
		nodes = append(nodes, node(schema.GroupKind{Kind: "Secret"}, name, namespace, configNode))
	}
	for _, c := range spec.AccessCredentials {
		if c.SSHPublicKey != nil && c.SSHPublicKey.Source.Secret != nil {
			secret(c.SSHPublicKey.Source.Secret.SecretName)
		} else if c.UserPassword != nil && c.UserPassword.Source.Secret != nil {
			secret(c.UserPassword.Source.Secret.SecretName)
		}
	}
	for _, v := range spec.Volumes {
		nodes = append(nodes, volumeNodes(v.VolumeSource, namespace)...)
	}
	for _, n := range spec.Networks {
		if n.Multus == nil || n.Multus.NetworkName == "" {
			continue
		}
		home, name, qualified := strings.Cut(n.Multus.NetworkName, "/")
		if !qualified {
			home, name = namespace, n.Multus.NetworkName
		}
		nodes = append(nodes, optionalNode(schema.GroupKind{Group: "k8s.cni.cncf.io", Kind: "NetworkAttachmentDefinition"}, name, home, networkNode))
	}
	return nodes
}

func volumeNodes(v kubevirtv1.VolumeSource, namespace string) (nodes []kubevirtv1.ObjectGraphNode) {
	claim := schema.GroupKind{Kind: "PersistentVolumeClaim"}
	add := func(n kubevirtv1.ObjectGraphNode) { nodes = append(nodes, n) }
	secret := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			add(node(schema.GroupKind{Kind: "Secret"}, ref.Name, namespace, configNode))
		}
	}
	switch {
	case v.DataVolume != nil:
		n := node(schema.GroupKind{Group: "cdi.kubevirt.io", Kind: "DataVolume"}, v.DataVolume.Name, namespace, storageNode)
		n.Children = []kubevirtv1.ObjectGraphNode{node(claim, v.DataVolume.Name, namespace, storageNode)}
		add(n)
	case v.PersistentVolumeClaim != nil:
		add(node(claim, v.PersistentVolumeClaim.ClaimName, namespace, storageNode))
	case v.ConfigMap != nil:
		add(node(schema.GroupKind{Kind: "ConfigMap"}, v.ConfigMap.Name, namespace, configNode))
	case v.Secret != nil:
		secret(&corev1.LocalObjectReference{Name: v.Secret.SecretName})
	case v.ServiceAccount != nil:
		add(node(schema.GroupKind{Kind: "ServiceAccount"}, v.ServiceAccount.ServiceAccountName, namespace, configNode))
	case v.CloudInitNoCloud != nil:
		secret(v.CloudInitNoCloud.UserDataSecretRef)
		secret(v.CloudInitNoCloud.NetworkDataSecretRef)
	case v.CloudInitConfigDrive != nil:
		secret(v.CloudInitConfigDrive.UserDataSecretRef)
		secret(v.CloudInitConfigDrive.NetworkDataSecretRef)
	}
	return nodes
}
