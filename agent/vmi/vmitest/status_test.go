package vmitest

import (
	"os"
	"path/filepath"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestStatusTableIsHeldToTypeAndValues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.md")
	text := "# x\n\n## Machine\n\n| field | filled in by |\n|---|---|\n| `type` | the host |\n\n## Other\n\n| `x` | nobody |\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	table := ReadStatusTable(t, path, "Machine")
	if len(table) != 1 || table.Empty("type") || table.who("other") != "" {
		t.Errorf("%v", table)
	}
	table.Check(t, &kubevirtv1.Machine{Type: "q35"})
	nested := StatusTable{"kernelInfo": "not yet: no kernels", "initrdInfo.checksum": "the host"}
	if !nested.Empty("kernelInfo.checksum") || nested.Empty("initrdInfo.checksum") {
		t.Errorf("rows do not speak for the fields below: %v", nested)
	}
	nested.Check(t, &kubevirtv1.KernelBootStatus{}, &kubevirtv1.KernelBootStatus{InitrdInfo: &kubevirtv1.InitrdInfo{Checksum: 1}})
}
