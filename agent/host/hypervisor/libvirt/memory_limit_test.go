package libvirt

import (
	"errors"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

// Of a definition, the limit of memory alone is taken away.
func TestSplitMemoryLimit(t *testing.T) {
	const soft = `<domain><name>a</name><memtune><soft_limit unit="KiB">5</soft_limit></memtune></domain>`
	for xml, want := range map[string]uint64{
		`<domain><name>a</name></domain>`: 0, soft: 0,
		strings.Replace(soft, "<memtune>", `<memtune><hard_limit unit="KiB">9</hard_limit>`, 1): 9,
	} {
		plain, limit, err := splitMemoryLimit(xml)
		if err != nil || limit != want || strings.Contains(plain, "hard_limit") || strings.Contains(xml, "soft") != strings.Contains(plain, "soft") {
			t.Errorf("%s became %s and %d, %v", xml, plain, limit, err)
		}
	}
	for _, xml := range []string{"<domain", `<domain><memtune><hard_limit unit="MB">9</hard_limit></memtune></domain>`} {
		if _, _, err := splitMemoryLimit(xml); !errors.Is(err, hypervisor.ErrInvalid) {
			t.Errorf("%s: %v", xml, err)
		}
	}
}
