package configuration

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

// inMesh runs a test in a mesh of two hosts that has its configuration.
func inMesh(t *testing.T, test func(w *stewardstest.World)) {
	t.Helper()
	stewardstest.Run(t, func(w *stewardstest.World) {
		w.Store.SetFeatureLevel(level.Access)
		startLoops(w)
		test(w)
	})
}

func startLoops(w *stewardstest.World) {
	for _, name := range []string{"h1", "h2"} {
		h := w.Host(name)
		c, err := New(h.Deps)
		w.Check(err)
		h.Start(c.Run)
	}
	w.Settle()
}

func config(w *stewardstest.World) *hcov1beta1.HyperConverged {
	w.Helper()
	c := stewardstest.Get[*hcov1beta1.HyperConverged](w, where)
	if c == nil {
		w.Fatal("there is no HyperConverged")
	}
	return c
}

// A mesh gets its configuration when it is raised to its level, and nothing before; then it
// is at rest.
func TestAMeshGetsItsConfigurationWithTheLevel(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		w.Store.SetFeatureLevel(level.Access - 1)
		startLoops(w)
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Fatalf("%d writes below the level", n)
		}
		w.Store.SetFeatureLevel(level.Access)
		if n := w.CommitsDuring(2 * levelPause); n != 1 {
			t.Errorf("%d writes at the level, want 1", n)
		}
		for _, name := range []string{"openshift-cnv", "kubevirt-hyperconverged"} {
			ns := stewardstest.Get[*corev1.Namespace](w, objects.Key{Name: name})
			if ns == nil || ns.Status.Phase != corev1.NamespaceActive {
				t.Errorf("the namespace %s is %+v", name, ns)
			}
		}
		c := config(w)
		if got := c.Spec.LiveMigrationConfig.ParallelMigrationsPerCluster; got == nil || *got != 5 {
			t.Errorf("defaults are not filled in: %v", got)
		}
		for name, want := range map[string]bool{"ReconcileComplete": true, "Available": true, "Progressing": false, "Degraded": false, "Upgradeable": true} {
			if got := meta.FindStatusCondition(c.Status.Conditions, name); got == nil || (got.Status == "True") != want || got.Reason != "ReconcileCompleted" {
				t.Errorf("condition %s is %+v", name, got)
			}
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Errorf("%d writes at rest", n)
		}
	})
}

// What is deleted comes back with its defaults; a namespace whose content is being deleted is
// let go first.
func TestADeletedConfigurationComesBack(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		model := "EPYC"
		stewardstest.Edit(w, where, func(c *hcov1beta1.HyperConverged) { c.Spec.DefaultCPUModel = &model })
		before := config(w)
		stewardstest.Delete[*hcov1beta1.HyperConverged](w, where, objects.DeleteOptions{})
		w.Settle()
		if c := config(w); c.UID == before.UID || c.Spec.DefaultCPUModel != nil {
			t.Errorf("after its deletion: %+v", c)
		}
		ns := objects.Key{Name: where.Namespace}
		stewardstest.Delete[*corev1.Namespace](w, ns, objects.DeleteOptions{})
		stewardstest.Delete[*hcov1beta1.HyperConverged](w, where, objects.DeleteOptions{})
		w.Settle()
		if c := stewardstest.Get[*hcov1beta1.HyperConverged](w, where); c != nil {
			t.Fatalf("in a namespace that is being deleted: %+v", c)
		}
		stewardstest.Edit(w, ns, func(n *corev1.Namespace) { n.Spec.Finalizers = nil })
		w.Settle()
		if n := stewardstest.Get[*corev1.Namespace](w, ns); n == nil || n.DeletionTimestamp != nil {
			t.Errorf("the namespace is %+v", n)
		}
		config(w)
	})
}

// The status is about the generation that is in force, names the images of the specification, and
// warns of a patch until it is taken out.
func TestTheStatusFollowsTheSpecification(t *testing.T) {
	inMesh(t, func(w *stewardstest.World) {
		since := meta.FindStatusCondition(config(w).Status.Conditions, "Available").LastTransitionTime
		time.Sleep(time.Hour)
		stewardstest.Edit(w, where, func(c *hcov1beta1.HyperConverged) {
			c.Annotations = map[string]string{"kubevirt.kubevirt.io/jsonpatch": `[]`}
			c.Spec.DataImportCronTemplates = make([]hcov1beta1.DataImportCronTemplate, 1)
			c.Spec.DataImportCronTemplates[0].Name = "fedora"
		})
		w.Settle()
		c := config(w)
		if c.Generation != 2 || c.Status.ObservedGeneration != 2 {
			t.Errorf("generation %d, observed is %d", c.Generation, c.Status.ObservedGeneration)
		}
		if images := c.Status.DataImportCronTemplates; len(images) != 1 || images[0].Name != "fedora" || images[0].Status.CommonTemplate {
			t.Errorf("images %+v", images)
		}
		if got := meta.FindStatusCondition(c.Status.Conditions, "TaintedConfiguration"); got == nil || got.Reason != "UnsupportedFeatureAnnotation" || c.Status.SystemHealthStatus != "warning" {
			t.Errorf("%s, with a patch: %+v", c.Status.SystemHealthStatus, got)
		}
		if at := meta.FindStatusCondition(c.Status.Conditions, "Available").LastTransitionTime; !at.Equal(&since) {
			t.Errorf("available since %s, was %s", at, since)
		}
		stewardstest.Edit(w, where, func(c *hcov1beta1.HyperConverged) { c.Annotations = nil })
		w.Settle()
		if c := config(w); meta.FindStatusCondition(c.Status.Conditions, "TaintedConfiguration") != nil || c.Status.SystemHealthStatus != "healthy" {
			t.Errorf("%s, without a patch: %+v", c.Status.SystemHealthStatus, c.Status.Conditions)
		}
	})
}
