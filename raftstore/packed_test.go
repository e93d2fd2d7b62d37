package raftstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// machineText is the stored form of a small machine.
func machineText(i int) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	return fmt.Appendf(nil, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"creationTimestamp":"2026-11-%02dT10:28:54Z",`+
		`"finalizers":["kubevirt.io/virtualMachineControllerFinalize"],"generation":1,"name":"web-%d","namespace":"ns%d","uid":"%x-%x"},`+
		`"spec":{"runStrategy":"Always","template":{"metadata":{"labels":{"app":"web"}},"spec":{"domain":{"devices":{"disks":[{"disk":{"bus":"virtio"},"name":"root"}]},`+
		`"memory":{"guest":"%dMi"}},"volumes":[{"containerDisk":{"image":"registry/system:v%d"},"name":"root"}]}}}}`,
		i%28+1, i, i%7, r.Uint64(), r.Uint64(), 256<<(i%4), i%5)
}

// Whatever values a directory gets, each can be read again, and a value that the model
// does not fit is not made larger.
func TestPackedValuesCanBeRead(t *testing.T) {
	texts := rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 1000), machineText),
		rapid.SliceOfN(rapid.Byte(), 0, 600),
		rapid.Map(rapid.IntRange(0, 100<<10), func(n int) []byte { return bytes.Repeat([]byte{byte(n), 'x'}, n/2) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		p := newPacker()
		dirs := rapid.SampledFrom([]string{"/registry/core/events/ns/", "/claims/vmi/", "/claims/host/h1/", "", "/"})
		var values [][]byte
		var kept []packed
		for range rapid.IntRange(1, 100).Draw(t, "values") {
			value := texts.Draw(t, "value")
			values = append(values, value)
			kept = append(kept, p.pack(dirs.Draw(t, "directory")+"name", bytes.Clone(value)))
		}
		for i, k := range kept {
			if !bytes.Equal(k.value(), values[i]) || k.size() != len(values[i]) || len(k.bytes) > len(values[i]) {
				t.Fatalf("value %d of %d bytes is kept in %d and read as %d", i, len(values[i]), len(k.bytes), len(k.value()))
			}
		}
	})
}

// A directory whose values change their shape gets another model; one with several
// shapes gets a model that knows them all.
func TestModelsFollowTheValues(t *testing.T) {
	p := newPacker()
	other := func(i int) []byte {
		return []byte(strings.ReplaceAll(strings.ToUpper(string(machineText(i))), `"`, `'`))
	}
	check := func(when string, value []byte) {
		t.Helper()
		if got := p.pack("/registry/kubevirt.io/virtualmachines/ns/x", value); len(got.bytes) > len(value)/4 {
			t.Errorf("%s: a value of %d bytes takes %d", when, len(value), len(got.bytes))
		}
	}
	for i := range 10 {
		p.pack("/registry/kubevirt.io/virtualmachines/ns/x", machineText(i))
		p.pack("/registry/kubevirt.io/virtualmachines/ns/x", other(i))
	}
	check("two shapes, the first", machineText(100))
	check("two shapes, the second", other(100))
	noise := make([]byte, maxModel)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	p.pack("/claims/vmi/x", noise) // fills a model with what nothing resembles
	before := p.models["/claims/vmi/"].dict
	for i := range 2 * relearnAfter {
		p.pack("/claims/vmi/x", machineText(i))
	}
	if got := p.pack("/claims/vmi/x", machineText(9999)); len(got.bytes) > len(machineText(9999))/4 || p.models["/claims/vmi/"].dict == before {
		t.Errorf("a model that fits nothing was kept: a value of %d bytes takes %d", len(machineText(9999)), len(got.bytes))
	}
}

// Neither many directories nor random values make the packer itself large.
func TestThePackerIsBounded(t *testing.T) {
	p := newPacker()
	dicts := map[any]bool{}
	for i := range 20_000 {
		noise := make([]byte, 256)
		for j := range noise {
			noise[j] = byte(rand.Uint32())
		}
		p.pack(fmt.Sprintf("/claims/host/host%d/x", i%1000), noise)
		for _, m := range p.models {
			dicts[m.dict] = true
			if len(m.text) > maxModel {
				t.Fatalf("a model of %d bytes", len(m.text))
			}
		}
	}
	if len(p.models) > maxModels {
		t.Errorf("%d models", len(p.models))
	}
}

// A cache keeps a record compact and gets it whole again.
func TestCompactRecords(t *testing.T) {
	p := newPacker()
	for i := range 2 {
		value := machineText(i)
		whole := (&stored{key: "/a/b", value: p.pack("/a/b", value), modRevision: 7}).record()
		compact := whole.Compact()
		if len(compact.Value) > 0 || compact.ModRevision != 7 || !bytes.Equal(compact.Expand().Value, value) {
			t.Errorf("record %d: compact has %d bytes, expanded %d", i, len(compact.Value), len(compact.Expand().Value))
		}
		if got := whole.WithValue([]byte("new")).Compact().Expand(); string(got.Value) != "new" {
			t.Errorf("with another value it is %q", got.Value)
		}
	}
	plain := Record{Key: "/a/b", Value: machineText(1)}
	if got := plain.Compact().Expand(); !bytes.Equal(got.Value, plain.Value) {
		t.Error("a record that no store has packed lost its value")
	}
}

// BenchmarkPack packs the stored form of a machine, and reads it again.
func BenchmarkPack(b *testing.B) {
	p := newPacker()
	var values [][]byte
	for i := range 100 {
		values = append(values, machineText(i))
	}
	b.Run("pack", func(b *testing.B) {
		size, kept := 0, 0
		for i := 0; b.Loop(); i++ {
			got := p.pack("/registry/kubevirt.io/virtualmachines/ns/x", values[i%100])
			size, kept = size+len(values[i%100]), kept+len(got.bytes)
		}
		b.ReportMetric(float64(kept)/float64(size), "of-its-size")
	})
	b.Run("read", func(b *testing.B) {
		got := p.pack("/registry/kubevirt.io/virtualmachines/ns/x", values[1])
		for b.Loop() {
			got.value()
		}
	})
}

// A directory of values that resemble nothing costs few tries. Values that come later, and
// do resemble each other, are packed.
func TestPackingIsGivenUpForAWhile(t *testing.T) {
	p := newPacker()
	const key = "/registry/core/secrets/ns/x"
	random := func() []byte {
		value := make([]byte, 200)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		return value
	}
	tried := 0
	for range 2 * longestRest {
		p.pack(key, random())
		if m := p.models[directory(key)]; m.skip == 0 || m.skip == m.rest {
			tried++
		}
	}
	if tried > longestRest/8 {
		t.Errorf("%d of %d values were tried", tried, 2*longestRest)
	}
	for i := range longestRest + 100 {
		p.pack(key, machineText(i))
	}
	if got := p.pack(key, machineText(1)); len(got.bytes) > len(machineText(1))/4 {
		t.Errorf("a value of %d bytes takes %d after the rest", len(machineText(1)), len(got.bytes))
	}
}

// BenchmarkPackRandom packs values that resemble nothing.
func BenchmarkPackRandom(b *testing.B) {
	p := newPacker()
	values := make([][]byte, 10_000) // more than a model holds
	for i := range values {
		values[i] = make([]byte, 1<<10)
		for j := range values[i] {
			values[i][j] = byte(rand.Uint32())
		}
	}
	for i := 0; b.Loop(); i++ {
		p.pack("/registry/core/secrets/ns/x", values[i%len(values)])
	}
}

// A record's value can be read into memory that is used again and again, whether the value
// is packed or not.
func TestValuesAreReadIntoOneBuffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, buf := newPacker(), []byte(nil)
		for i := range rapid.IntRange(1, 50).Draw(t, "values") {
			value := machineText(i)
			if rapid.Bool().Draw(t, "short") {
				value = value[:i]
			}
			r := (&stored{key: "/registry/a/b/c", value: p.pack("/registry/a/b/c", bytes.Clone(value))}).record()
			if rapid.Bool().Draw(t, "compact") {
				r = r.Compact()
			}
			var got []byte
			if got, buf = r.ReadValue(buf); !bytes.Equal(got, value) {
				t.Fatalf("read %q, want %q", got, value)
			}
			if r.Size() != len(value) {
				t.Fatalf("the size of %q is %d", value, r.Size())
			}
		}
	})
}
