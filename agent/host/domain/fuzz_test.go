package domain

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
	"sigs.k8s.io/yaml"

	machine "virtmesh/agent/vmi"
)

// FuzzConvert feeds what the API would store to the conversion: it must not panic,
// must not call a spec wrong that was let through, and must give XML that means the
// same when it is read back.
func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.yaml"))
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		seed, err := yaml.YAMLToJSON(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"metadata":{"name":"a","namespace":"b","uid":"0f7d8a1e-0000-4000-8000-00000000000a"},"spec":{"domain":{"memory":{"guest":"1Gi"},"resources":{"limits":{"cpu":"10P"}},"firmware":{"serial":"\u0000<>&]]>"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		vmi := &v1.VirtualMachineInstance{}
		if json.Unmarshal(data, vmi) != nil {
			return
		}
		d := machine.DefaultDefaults()
		d.Architecture = "amd64"
		machine.SetNewInstance(d, vmi, time.Unix(0, 0))
		if len(machine.ValidateInstance(d, vmi)) > 0 {
			return
		}
		for name, host := range ampleHosts {
			in := everything(vmi, host)
			in.CPUMilli = machine.DefaultPolicy().Resources(&vmi.Spec).CPUMilli
			checkConversion(t, name, in)
		}
	})
}

// checkConversion wants in to convert or be refused for what a host lacks.
func checkConversion(t *testing.T, host string, in Input) {
	t.Helper()
	out, _, err := Convert(in)
	for _, fault := range fieldErrors(err) {
		if !fault.Unsupported {
			t.Errorf("%s: accepted, then wrong: %v", host, fault)
		}
	}
	if err != nil {
		return
	}
	text, err := out.Marshal()
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	back := &libvirtxml.Domain{}
	if err := back.Unmarshal(text); err != nil {
		t.Fatalf("%s: read back: %v\n%s", host, err, text)
	}
	again, err := back.Marshal()
	if err != nil || again != text {
		t.Errorf("%s: read back it is another (%v):\n%v", host, err, changedLines(text, again))
	}
}
