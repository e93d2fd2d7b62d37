package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// shapes are records as a lab has stored them, with the words that differ between
// machines between @ signs.
//
//go:embed records/*.json
var shapes embed.FS

// population is what a mesh holds.
type population struct {
	Hosts, Machines int
	// Events is how many events there are besides those of the machines.
	Events int
}

// namespaces is how many namespaces the machines are spread over.
const namespaces = 100

// recordsPerMachine names the records that a running machine has, by the file of their
// shape and the kind of the object. Its claims come besides.
var recordsPerMachine = []struct {
	shape, suffix string
	kind          func() *kinds.Kind
}{
	{"vm", "", kinds.For[*kubevirtv1.VirtualMachine]},
	{"vmi", "", kinds.For[*kubevirtv1.VirtualMachineInstance]},
	{"pvc", "-data", kinds.For[*corev1.PersistentVolumeClaim]},
	// Each start leaves a handful of events, which go after an hour.
	{"event", ".scheduled", kinds.For[*corev1.Event]},
	{"event", ".started", kinds.For[*corev1.Event]},
}

// write stores the population.
func (p population) write(ctx context.Context, store objects.Store) error {
	texts := map[string]string{}
	for _, name := range []string{"vm", "vmi", "pvc", "event", "node"} {
		text, err := shapes.ReadFile("records/" + name + ".json")
		if err != nil {
			return fmt.Errorf("read the shape of %s: %w", name, err)
		}
		if texts[name], err = asStored(text); err != nil {
			return fmt.Errorf("read the shape of %s: %w", name, err)
		}
	}
	for i := range namespaces {
		var tx objects.Tx
		tx.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("ns", i)}})
		if _, err := tx.Commit(ctx, store); err != nil {
			return fmt.Errorf("write a namespace: %w", err)
		}
	}
	for i := range p.Hosts {
		if err := writeHost(ctx, store, texts["node"], i); err != nil {
			return fmt.Errorf("write host %d: %w", i, err)
		}
	}
	for i := range p.Machines {
		if err := p.writeMachine(ctx, store, texts, i); err != nil {
			return fmt.Errorf("write machine %d: %w", i, err)
		}
	}
	return p.writeEvents(ctx, store, texts["event"])
}

// asStored returns an object's JSON as agents write it: without space, and what names the
// object first.
func asStored(text []byte) (string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return "", err
	}
	names := slices.SortedFunc(maps.Keys(fields), func(a, b string) int {
		order := []string{"metadata", "apiVersion", "kind"}
		return cmp.Or(slices.Index(order, b)-slices.Index(order, a), cmp.Compare(a, b))
	})
	var out bytes.Buffer
	for i, name := range names {
		fmt.Fprintf(&out, `%s%q:`, [2]string{"{", ","}[min(i, 1)], name)
		if err := json.Compact(&out, fields[name]); err != nil {
			return "", err
		}
	}
	return out.String() + "}", nil
}

func writeHost(ctx context.Context, store objects.Store, shape string, i int) error {
	var tx objects.Tx
	name := hostName(i)
	tx.Put(kinds.For[*corev1.Node]().StoreKey(objects.Key{Name: name}), []byte(words(name, name, i).Replace(shape)))
	claims.Publish(&tx, claims.Capacity{Host: name, Allocatable: machine.Resources{CPUMilli: 128_000, MemoryBytes: 1 << 40}})
	_, err := tx.Commit(ctx, store)
	return err
}

// writeMachine stores a machine that runs, and its claims, in one transaction.
func (p population) writeMachine(ctx context.Context, store objects.Store, texts map[string]string, i int) error {
	name, host := fmt.Sprintf("web-server-%d", i), hostName(i%p.Hosts)
	key := objects.Key{Namespace: fmt.Sprint("ns", i%namespaces), Name: name}
	w, uid := words(name, host, i), uidOf(i)
	var tx objects.Tx
	for _, r := range recordsPerMachine {
		at := objects.Key{Namespace: key.Namespace, Name: name + r.suffix}
		tx.Require(r.kind().StoreKey(at), 0)
		tx.Put(r.kind().StoreKey(at), []byte(w.Replace(texts[r.shape])))
	}
	claims.Place(&tx, claims.Instance{
		Namespace: key.Namespace, Name: name, UID: uid, Host: host,
		Resources: machine.Resources{CPUMilli: 100, MemoryBytes: 512 << 20},
	}, claims.Epoch{})
	claims.Attach(&tx, claims.Volume{Namespace: key.Namespace, Claim: name + "-data"}, uid)
	_, err := tx.Commit(ctx, store)
	return err
}

// uidOf returns the uid of the instance of machine i.
func uidOf(i int) types.UID {
	return types.UID(fmt.Sprintf("%08x-96d6-42a3-bb94-%012x", uint32(i)*2654435761, uint64(i+1)*0x9e3779b97f4a7c15>>16))
}

// words returns what replaces the words of the shapes for machine or host i.
func words(name, host string, i int) *strings.Replacer {
	uid, sum := string(uidOf(i)), make([]byte, 8)
	_, _ = rand.Read(sum)
	random := func() string {
		b := make([]byte, 16)
		_, _ = rand.Read(b)
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	}
	return strings.NewReplacer(
		"@UID@-vm", random(), "@UID@-pvc", random(), "@UID@-serial", random(), "@UID@-firmware", random(), "@UID@-event", random(),
		"@UID@", uid, "@NAME@", name, "@NS@", fmt.Sprint("ns", i%namespaces), "@HOST@", host,
		"@IP@", fmt.Sprintf("10.%d.%d.%d", 64+i>>16, i>>8&255, i&255), "@MAC@", fmt.Sprintf("02:3e:58:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255),
		"@TAP@", hex.EncodeToString(sum[:6]), "@SUM@", hex.EncodeToString(sum),
		"@TIME@", time.Now().Add(-time.Duration(i)*time.Millisecond).UTC().Format(time.RFC3339),
		"@IMAGE@", fmt.Sprintf("registry.example/images/system-%d:v%d", i%7, i%3), "@MEMORY@", fmt.Sprintf("%dMi", 256<<(i%4)),
	)
}
