//go:build libvirt_dlopen

package domain

import (
	"regexp"
	"strconv"
	"testing"
)

var (
	rootPort = regexp.MustCompile(`<controller type='pci' index='(\d+)' model='pcie-root-port'>`)
	pciInUse = regexp.MustCompile(`<address type='pci' domain='0x0000' bus='0x([0-9a-f]+)'`)
)

// freePorts counts the ports of a running guest that nothing is plugged into.
func freePorts(t *testing.T, xml string) int {
	t.Helper()
	used := map[int64]bool{}
	for _, m := range pciInUse.FindAllStringSubmatch(xml, -1) {
		bus, err := strconv.ParseInt(m[1], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		used[bus] = true
	}
	free := 0
	for _, m := range rootPort.FindAllStringSubmatch(xml, -1) {
		index, err := strconv.ParseInt(m[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if !used[index] {
			free++
		}
	}
	return free
}
