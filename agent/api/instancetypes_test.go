package api_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	instancetypev1beta1 "kubevirt.io/api/instancetype/v1beta1"

	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// An instance type is stored as it was given, and who makes it is told that nothing applies it.
// A machine that names it is refused, in the same words, also where it would be written out: it
// would run with other CPUs and memory than its owner asked for.
func TestInstancetypeIsStoredAndNoMachineTakesIt(t *testing.T) {
	h := start(t, func(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() })
	told, config := &warnings{}, h.adminConfig(t)
	config.WarningHandler = told
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	classes := client.Resource(instancetypev1beta1.SchemeGroupVersion.WithResource("virtualmachineclusterinstancetypes"))
	obj := parse(t, `{apiVersion: instancetype.kubevirt.io/v1beta1, kind: VirtualMachineClusterInstancetype, metadata: {name: u1.small},
		spec: {cpu: {guest: 1}, memory: {guest: 2Gi, overcommitPercent: 15}}}`)
	made, err := classes.Create(t.Context(), obj, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const says = "no machine can use instance types and preferences in this version"
	if field(t, made, "spec", "memory", "guest") != "2Gi" || made.GetGeneration() != 1 || len(told.texts) != 1 || !strings.Contains(told.texts[0], says) {
		t.Errorf("made %v, warned of %q", made.Object, told.texts)
	}
	patch := []byte(`{"spec":{"memory":{"overcommitPercent":101}}}`)
	if _, err := classes.Patch(t.Context(), "u1.small", types.MergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.memory.overcommitPercent") {
		t.Errorf("a patch that breaks a rule: %v", err)
	}
	vm := parse(t, vmManifest)
	set(t, vm, "u1.small", "spec", "instancetype", "name")
	if _, err := client.Resource(vmResource).Namespace("default").Create(t.Context(), vm, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.instancetype: Forbidden: "+says) {
		t.Errorf("a machine of the type: %v", err)
	}
}

// A mesh that has hosts of an older version answers who makes one with its level.
func TestInstancetypeWaitsForFeatureLevel(t *testing.T) {
	h := start(t, func(cfg *raftstore.Config) {
		cfg.FeatureLevel = raftstore.LevelRange{Lowest: level.Lowest, Highest: level.Access - 1}
	})
	obj := parse(t, `{apiVersion: instancetype.kubevirt.io/v1beta1, kind: VirtualMachinePreference, metadata: {name: a}, spec: {}}`)
	_, err := h.dynamic(t).Resource(instancetypev1beta1.SchemeGroupVersion.WithResource("virtualmachinepreferences")).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "feature level 6") {
		t.Errorf("at the level before: %v", err)
	}
}
